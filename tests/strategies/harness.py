"""A request without HTTP: a session on an engine, with everything that can be looked at after."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.engines.scripted import ScriptedEngine
from strategies.admission import Admission
from strategies.base import Outcome, Strategy, run
from strategies.budget import Budget, Ledger
from strategies.events import EventLog
from strategies.request import Request, Service
from strategies.session import Session
from verifiers.base import Verifier
from verifiers.equality import AnswerEquality
from verifiers.logprob import Logprob
from verifiers.types import Engine, JSONObject, Prompt, Sampling

QUESTION = ({"role": "user", "content": "What is 6 times 7?"},)


@dataclass
class Bench:
    """One request on one engine, ready to run."""

    engine: Engine = field(default_factory=ScriptedEngine)
    budget: Budget = field(default_factory=lambda: Budget(100_000, 1_000, 60.0))
    verifier: Verifier | None = field(default_factory=Logprob)
    fields: JSONObject = field(default_factory=dict)
    admission: Admission = field(default_factory=Admission)
    prompt: Prompt = field(default_factory=lambda: Prompt(QUESTION))
    sampling: Sampling = field(default_factory=lambda: Sampling(64, logprobs=0))
    n: int = 1
    others: dict[str, Engine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.budget)
        self.events = EventLog(lambda: self.ledger.seconds)
        engines = {"main": self.engine, **self.others}
        self.request = Request(
            Service(engines, AnswerEquality(), self.admission),
            self.ledger,
            self.events,
            self.verifier,
            self.fields,
        )
        self.session = Session(self.request, self.engine, self.prompt, self.sampling, n=self.n)

    async def run(self, strategy: Strategy) -> Outcome:
        return await run(strategy, self.session, self.request)

    def at_rest(self) -> bool:
        """Whether nothing runs, waits or is reserved any more."""
        admission = self.admission
        return (admission.running, admission.queued, self.ledger.reserved) == (0, 0, 0)
