"""What a strategy is, how it is found, and how it is run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

import strategies
from strategies.budget import Budget, Limit
from strategies.concurrency import affordable
from strategies.events import EventKind
from strategies.request import Request, Service
from strategies.session import Session
from verifiers.answers import answer_of
from verifiers.base import Verifier
from verifiers.discovery import discover
from verifiers.errors import BadRequest, BudgetSpent, DeadlinePassed
from verifiers.types import Candidate, Capabilities, Continuation

MAX_SAMPLES = 1024
"""The widest strategy that a request can name; the server's cap is usually lower."""

Width = Annotated[int, Field(ge=1, le=MAX_SAMPLES, description="Samples to draw.")]
Temperature = Annotated[
    float | None,
    Field(gt=0, le=2, description="Default: the request's temperature if above 0, else 0.8."),
]


Family: TypeAlias = Literal["parallel", "search", "sequential", "across"]
"""How a strategy goes about it: it draws replies side by side, grows them, works on one, or
chooses among strategies."""


class Need(StrEnum):
    """What a strategy cannot work without."""

    SCORES = "scores"
    """A verifier; where the request names none, the server's default."""
    STEP_SCORES = "step_scores"
    """A verifier that can judge a reply that has not ended."""
    CONTINUATION = "continuation"
    """An engine that can go on with a reply."""
    LOGPROBS = "logprobs"
    """An engine that gives the log-probabilities of its tokens."""


class WorstCase(NamedTuple):
    """The most that a strategy can spend."""

    samples: int
    tokens: int


class Part(NamedTuple):
    """A strategy that another one runs."""

    place: str
    """Its dotted path among the other's parameters."""
    strategy: Strategy
    engine: str | None = None
    """The configuration's name of the engine that it runs on; None: the other's own.

    It stands beside the strategy, as `engine`.
    """


class Strategy(BaseModel, ABC):
    """An algorithm that spends samples on one better answer. Its fields are its parameters.

    A subclass declares its name as `type: Literal["name"] = "name"`, its parameters as bounded
    fields with the published defaults, and `run`. The first line of its docstring is its summary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: ClassVar[Family] = "parallel"
    """Where the documents list it."""
    paper: ClassVar[str] = ""
    """Title and arXiv id of the method's source."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What it cannot work without, with its default parameters."""

    @abstractmethod
    def samples(self, n: int) -> int:
        """Return the most samples that it draws when the client wants n answers."""

    def at_once(self, n: int) -> int:
        """Return the most samples that run side by side: what the server's `max_samples` caps."""
        return self.samples(n)

    def choices(self, n: int) -> int:
        """Return the most answers it can give when the client wants n."""
        return self.samples(n)

    @abstractmethod
    async def run(self, session: Session) -> Sequence[Candidate]:
        """Return candidates, best first."""

    async def rank(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:  # noqa: ARG002
        """Order what there is where the budget ended in the middle of `run`, best first.

        `candidates` answer the request's own question; they come in the order of their making.
        """
        return best_first(candidates)

    def parts(self) -> tuple[Part, ...]:
        """Return the strategies that it runs, as its parameters name them."""
        return ()

    def required(self) -> frozenset[Need]:
        """Return what it and its parts cannot work without, with the parameters that they have."""
        return self.needs.union(*(part.strategy.required() for part in self.parts()))

    def check(self, service: Service, place: str = "strategy") -> None:
        """Refuse what it names and this server has not, or cannot do there.

        Raises:
            BadRequest: its `param` is the dotted path, under `place`, of what is refused.
        """
        for part in self.parts():
            here = f"{place}.{part.place}"
            if part.engine is not None:
                if part.engine not in service.engines:
                    beside = f"{here.rpartition('.')[0]}.engine"
                    raise BadRequest(f"there is no engine {part.engine!r}", param=beside)
                able = service.engines[part.engine].capabilities
                if reason := self.part_unavailable(part, able):
                    raise BadRequest(f"not available here: {reason}", param=here)
            part.strategy.check(service, here)

    def part_unavailable(self, part: Part, capabilities: Capabilities) -> str | None:
        """Say why a part of it cannot work with that engine; None if it can."""
        return part.strategy.unavailable(capabilities)

    def engines(self) -> frozenset[str]:
        """Return the names of all engines beside the request's own that it would ask."""
        named = {part.engine for part in self.parts() if part.engine is not None}
        return frozenset(named).union(*(part.strategy.engines() for part in self.parts()))

    def worst_case(self, n: int, cap: int, verifier: Verifier | None, budget: Budget) -> WorstCase:
        """Return the most samples and tokens it can spend, with replies of at most `cap` tokens."""
        samples = min(self.samples(n), budget.max_calls)
        judged = (
            verifier.max_tokens if verifier is not None and Need.SCORES in self.required() else 0
        )
        return WorstCase(samples, min(samples * (cap + judged), budget.max_tokens))

    def unavailable(self, capabilities: Capabilities) -> str | None:
        """Say why it cannot work with that engine; None if it can."""
        if Need.CONTINUATION in self.required() and capabilities.continuation is Continuation.NONE:
            return "the engine cannot go on with a reply"
        if Need.LOGPROBS in self.required() and capabilities.logprobs is None:
            return "the engine gives no log-probabilities"
        return None


class Parallel(Strategy, ABC):
    """A strategy that draws independent samples of one prompt and then chooses."""

    n: Width = 8
    temperature: Temperature = None

    def samples(self, n: int) -> int:  # noqa: ARG002  (its width, whatever the client wants)
        """Return its width."""
        return self.n


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. The costs are in the request's ledger, the story in its events."""

    choices: tuple[Candidate, ...]
    """The answers that the client asked for, best first; never empty."""
    candidates: tuple[Candidate, ...]
    """Everything that answers the request's own prompt."""
    answer: str | None
    agreement: float | None
    abstentions: int
    stopped_by: Limit | None


async def run(strategy: Strategy, session: Session, request: Request) -> Outcome:
    """Run a strategy to its end, or to what it ranks best where the budget ended first.

    Raises:
        DeadlinePassed: nothing was generated before the deadline.
        BudgetSpent: nothing could be paid for.
        EngineError: every sample failed.
    """
    bare = Need.CONTINUATION in strategy.required() and session.prompt.constrained
    if bare:
        with session.saving(leave=1):
            found = await _searched(strategy, session.unconstrained())
        written = await affordable(session.write_down(found[: session.n]))
        ranked = [*chain(*written), *found]
    else:
        ranked = await _searched(strategy, session)
    choices = tuple(ranked[: session.n])
    if not request.concluded:
        for index, choice in enumerate(choices):
            request.events.answer(index, choice)
    votes = request.votes
    outcome = Outcome(
        choices,
        tuple(request.produced.values()),
        answer_of(choices[0], session.prompt) if votes is None else votes.answer,
        None if votes is None else votes.agreement,
        0 if votes is None else votes.abstentions,
        request.ledger.stopped_by,
    )
    request.events.emit(
        EventKind.FINISHED,
        choices=[choice.id for choice in choices],
        answer=outcome.answer,
        agreement=outcome.agreement,
        stopped_by=outcome.stopped_by,
    )
    return outcome


async def attempt(strategy: Strategy, session: Session) -> list[Candidate]:
    """Run the algorithm, or take the best of what it had made where the budget ended first.

    Raises:
        BudgetSpent: it had made nothing.
    """
    try:
        return list(await strategy.run(session))
    except BudgetSpent:
        ranked = await strategy.rank(session, session.salvage())
        if not ranked:
            raise
        return ranked


async def _searched(strategy: Strategy, session: Session) -> list[Candidate]:
    try:
        return await attempt(strategy, session)
    except BudgetSpent as spent:
        if spent.limit == Limit.DEADLINE:
            raise DeadlinePassed("the deadline passed before there was an answer") from None
        raise


def best_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Order candidates: finished ones, then by score, mean log-probability, and text."""
    return sorted(
        candidates,
        key=lambda each: (not each.done, -each.score, -_finite(each.mean_logprob), each.text),
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -1e9


def strategy_classes() -> dict[str, type[Strategy]]:
    """Return every strategy of this package by its name."""
    return discover(strategies, Strategy)  # type: ignore[type-abstract]
