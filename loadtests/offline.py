"""Our own strategies on recorded samples, in this process: the code that serves, without a server.

Where an estimator knows a selection in closed form, `loadtests/estimators.py` is exact. This is for
all others: a strategy is run on random orders of a problem's samples, and what it returned and
spent is averaged.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean
from typing import NamedTuple

from loadtests.pools import Recorded, Sample
from loadtests.replay_cut import Limits, cut
from strategies.admission import Admission
from strategies.base import Outcome, Strategy, run
from strategies.budget import Budget, Ledger, Stage
from strategies.events import EventLog
from strategies.request import Request, Service
from strategies.session import Session
from verifiers.base import Verifier
from verifiers.errors import EngineError
from verifiers.types import (
    Capabilities,
    Chunk,
    Engine,
    Equivalence,
    Prompt,
    Sampling,
    TokenLogprob,
    Usage,
)

AMPLE = Budget(1_000_000, 10_000, 3_600.0)
CAPABILITIES = Capabilities(32_768, logprobs=20, counts_live=True, seeds=True, together=True)


class PoolEngine:
    """Gives the samples of one problem, in the order that it is handed; then it fails.

    Samples that run side by side advance `grain` tokens each per turn: all decode equally fast.
    """

    def __init__(self, samples: Sequence[Sample], *, grain: int = 1) -> None:
        self.model = "pool"
        self.capabilities = CAPABILITIES
        self._left = iter(samples)
        self._grain = grain

    @property
    def statistics(self) -> Mapping[str, float]:
        """None of its own."""
        return {}

    async def count_tokens(self, prompt: Prompt) -> int:  # noqa: ARG002
        """Say that it does not know."""
        return 0

    async def tokenize(self, text: str) -> tuple[int, ...]:  # noqa: ARG002
        """Return nothing: a pool has no ids."""
        return ()

    async def aclose(self) -> None:
        """Nothing to release."""

    async def generate(
        self,
        prompt: Prompt,  # noqa: ARG002
        sampling: Sampling,
        n: int = 1,
    ) -> AsyncGenerator[Chunk, None]:
        """Give the next n samples. Raises EngineError where none is left."""
        limits = Limits(sampling.max_tokens, sampling.stop, sampling.keep_stop, sampling.logprobs)
        live = {}
        for index in range(n):
            sample = next(self._left, None)
            if sample is None:
                raise EngineError("the pool has no more samples of this problem")
            grain = self._grain if sampling.incremental else sample.completion_tokens
            live[index] = _chunks(sample, limits, grain)
        step = 0
        while live:
            await asyncio.sleep(0)
            for index, chunks in tuple(live.items()):
                yield replace(chunks[step], index=index)
                if step + 1 == len(chunks):
                    del live[index]
            step += 1


@lru_cache(maxsize=4_096)
def _chunks(sample: Sample, limits: Limits, grain: int) -> tuple[Chunk, ...]:
    reply = cut(sample, limits)
    entries = tuple(
        TokenLogprob(
            entry["token"],
            entry["logprob"],
            tuple((each["token"], each["logprob"]) for each in entry["top_logprobs"]),
        )
        for entry in reply.logprobs or ()
    )
    pieces = reply.pieces
    chunks = [
        Chunk(
            0,
            "".join(pieces[start : start + grain]),
            logprobs=entries[start : start + grain],
            usage=Usage(completion_tokens=len(pieces[start : start + grain])),
        )
        for start in range(0, len(pieces), grain)
    ]
    prompt = Usage(prompt_tokens=sample.prompt_tokens)
    chunks[0] = replace(chunks[0], usage=chunks[0].usage + prompt)
    chunks[-1] = replace(
        chunks[-1], finish_reason=reply.finish_reason, stop_reason=reply.stop_reason
    )
    return tuple(chunks)


class Played(NamedTuple):
    """What a strategy does on one problem: means over orders of its samples."""

    correct: float
    samples: float
    """Generations that were begun."""
    tokens: float
    """Everything that was generated, what was stopped included."""


@dataclass(frozen=True, slots=True)
class Player:
    """Runs strategies on recorded problems."""

    equivalence: Equivalence
    verifier: Verifier | None = None
    cap: int = 320
    """Tokens of a reply: that of the recording."""
    seeded: bool = True
    """As a request with a seed: strategies decide at wave ends; else whenever a sample ends."""
    grain: int = 1
    """Tokens that a running sample advances at a time."""

    async def play(
        self, strategy: Strategy, recorded: Recorded, orders: int, budget: Budget = AMPLE
    ) -> Played:
        """Average a strategy over random orders; the same ones for every strategy."""
        rows = [
            await self._once(strategy, recorded, order, budget)
            for order in shuffled(recorded, orders)
        ]
        return Played(*(fmean(column) for column in zip(*rows, strict=True)))

    async def outcome(
        self, strategy: Strategy, recorded: Recorded, order: Sequence[Sample], budget: Budget
    ) -> tuple[Outcome, Ledger]:
        """Run a strategy once on the samples in this order."""
        engine = PoolEngine(order, grain=self.grain)
        prompt = Prompt(recorded.problem.messages)
        outcome, request = await self.ask(strategy, engine, prompt, budget)
        return outcome, request.ledger

    async def ask(
        self, strategy: Strategy, engine: Engine, prompt: Prompt, budget: Budget = AMPLE
    ) -> tuple[Outcome, Request]:
        """Run a strategy once on an engine; return the request too, for its costs and events."""
        ledger = Ledger(budget)
        request = Request(
            Service({"main": engine}, self.equivalence, Admission()),
            ledger,
            EventLog(lambda: ledger.seconds),
            self.verifier,
        )
        sampling = Sampling(self.cap, seed=0 if self.seeded else None, logprobs=0)
        session = Session(request, engine, prompt, sampling)
        return await run(strategy, session, request), request

    async def _once(
        self, strategy: Strategy, recorded: Recorded, order: Sequence[Sample], budget: Budget
    ) -> tuple[float, float, float]:
        outcome, ledger = await self.outcome(strategy, recorded, order, budget)
        right = {sample.text: bool(sample.correct) for sample in recorded.samples}
        correct = right.get(outcome.choices[0].text, False)
        return (
            float(correct),
            float(ledger.usage[Stage.SAMPLE].calls),
            float(ledger.total.completion_tokens),
        )


def shuffled(recorded: Recorded, orders: int) -> list[tuple[Sample, ...]]:
    """Return random orders of a problem's samples, always the same; the first is the recorded."""
    rng = random.Random(f"orders of {recorded.problem.id}")
    made = [recorded.samples]
    while len(made) < orders:
        made.append(tuple(rng.sample(recorded.samples, len(recorded.samples))))
    return made
