"""What it is worth that branches do not wait for each other: dvts and mcts with and without.

    python -m loadtests.barrier

Both run on an engine without a model, whose steps and latencies are those of recorded samples
(`loadtests/simulated.py`), once as they are and once where every step waits for all others of its
request, as search by generations does. Steps and scores are the same in both.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import TypeAlias

from loadtests.inference import Interval, paired_bootstrap
from loadtests.pools import POOLS, Recorded, open_pool
from loadtests.report import circumstances, table, write_section
from loadtests.simulated import (
    ON_TWO_CORES,
    WITH_ROOM,
    Decoder,
    SimulatedEngine,
    in_virtual_time,
)
from strategies.admission import Admission
from strategies.base import Strategy, run
from strategies.budget import Budget, Ledger
from strategies.dvts import DVTS
from strategies.events import EventLog
from strategies.mcts import MCTS
from strategies.request import Request, Service
from strategies.session import Session
from verifiers.base import Verifier
from verifiers.types import Candidate, JSONObject, Powers, Prompt, Sampling, Score, Task

Latency: TypeAlias = Sequence[tuple[int, float]]

POOL = POOLS / "gsm8k-qwen2.5-coder-0.5b"
REQUESTS = (1, 4)
MACHINES: dict[str, Latency] = {
    "a step's time does not depend on the batch": WITH_ROOM,
    "it does, as on two cores": ON_TWO_CORES,
}
PROBLEMS = 40
AMPLE = Budget(1_000_000, 100_000, 86_400.0)


class Fixed(Verifier):
    """Scores by the text alone, the same in every run; costs no time."""

    @property
    def partial(self) -> bool:
        """Any text will do."""
        return True

    async def score(
        self,
        task: Task,  # noqa: ARG002
        candidates: Sequence[Candidate],
        powers: Powers,  # noqa: ARG002
    ) -> list[Score]:
        """Draw each score from its text."""
        return [Score(random.Random(each.text).random()) for each in candidates]


class ByForm:
    """Compares answers by their canonical form: a worker process knows nothing of virtual time."""

    async def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Tell for each pair whether it is written alike."""
        return [one == other for one, other in pairs]

    async def matches(self, pattern: str, texts: Sequence[str]) -> list[bool]:
        """Tell for each text whether it holds the pattern literally."""
        return [pattern in text for text in texts]

    async def conforms(self, schema: JSONObject, texts: Sequence[str]) -> list[bool]:  # noqa: ARG002
        """Say that nothing does: no verifier here asks."""
        return [False for _ in texts]


async def search(
    strategy: Strategy, problems: Sequence[Recorded], seconds: Latency, *, barrier: bool
) -> list[str]:
    """Run the problems at the same time on one machine; return the answers' texts."""
    decoder = Decoder(seconds)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                _request(strategy, each, SimulatedEngine(each.samples, decoder, barrier=barrier))
            )
            for each in problems
        ]
    return [task.result() for task in tasks]


async def _request(strategy: Strategy, recorded: Recorded, engine: SimulatedEngine) -> str:
    ledger = Ledger(AMPLE)
    service = Service({"main": engine}, ByForm(), Admission())
    events = EventLog(lambda: ledger.seconds)
    request = Request(service, ledger, events, Fixed())
    # With a seed mcts waits for whole waves by itself; the engine here needs none to be repeated.
    seed = None if isinstance(strategy, MCTS) else 0
    sampling = Sampling(4_096, seed=seed)
    session = Session(request, engine, Prompt(recorded.problem.messages), sampling)
    return (await run(strategy, session, request)).choices[0].text


def ratios(
    strategy: Strategy, at_once: int, problems: Sequence[Recorded], seconds: Latency
) -> Interval:
    """Return virtual seconds without the barrier over those with it, over groups of problems."""
    shares = []
    for start in range(0, len(problems) - at_once + 1, at_once):
        group = problems[start : start + at_once]
        _, free = in_virtual_time(search(strategy, group, seconds, barrier=False))
        _, held = in_virtual_time(search(strategy, group, seconds, barrier=True))
        shares.append(free / held)
    return paired_bootstrap(shares)


def _cell(share: Interval) -> str:
    return f"{share.mean:.2f} ({share.low:.2f} to {share.high:.2f})"


def main() -> None:
    """Measure, and write the section of `docs/results.md`."""
    problems = open_pool(POOL).recorded[:PROBLEMS]
    strategies = {"dvts, n = 16, M = 4": DVTS(n=16), "mcts, 16 simulations": MCTS()}
    body = []
    for name, strategy in strategies.items():
        for at_once in REQUESTS:
            cells = [ratios(strategy, at_once, problems, each) for each in MACHINES.values()]
            body.append([name, str(at_once), *map(_cell, cells)])
            print(*body[-1])
    head = ["seconds, of those with a barrier", "requests at once", *MACHINES]
    made = circumstances("python -m loadtests.barrier")
    write_section(
        "barrier",
        f"{table(head, body)}\n\nVirtual seconds over {PROBLEMS} problems of `{POOL.name}`. {made}",
    )


if __name__ == "__main__":
    main()
