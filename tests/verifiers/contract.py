"""What holds for every verifier. Each check raises AssertionError where it does not.

What each is run on stands in `samples.py`.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from strategies.admission import Admission
from strategies.budget import Budget, Ledger, Stage
from strategies.events import EventLog
from strategies.powers import SessionPowers
from strategies.request import Request, Service
from strategies.session import Session
from tests.verifiers.oracle import Oracle
from tests.verifiers.samples import Sample, candidate
from verifiers.base import Verifier
from verifiers.discovery import summary
from verifiers.errors import BudgetSpent, DeadlinePassed
from verifiers.steps import BLANK_LINE
from verifiers.types import UNSCORED, Candidate, Equivalence, Sampling, Score, Task, Usage

AMPLE = Budget(100_000, 1_000, 60.0)
ENGINES = ("main", "other")
"""The policy's engine, and the one that samples name where a verifier has its own."""


@dataclass
class Trial:
    """One request whose candidates one verifier scores, with all that can be looked at after."""

    verifier: Verifier
    sample: Sample
    equivalence: Equivalence
    budget: Budget = AMPLE
    delay: float = 0.0
    mute: bool = False
    admission: Admission = field(default_factory=Admission)

    def __post_init__(self) -> None:
        says = self.sample.says
        self.engines = {
            name: Oracle(name, says, delay=self.delay, mute=self.mute) for name in ENGINES
        }
        self.ledger = Ledger(self.budget)
        service = Service(self.engines, self.equivalence, self.admission)
        events = EventLog(lambda: self.ledger.seconds)
        told = self.verifier.request_fields().model_validate(dict(self.sample.fields))
        self.fields = told.model_dump(exclude_none=True)
        self.request = Request(service, self.ledger, events, self.verifier, self.fields)
        self.session = Session(
            self.request, self.engines["main"], self.sample.prompt, Sampling(64, logprobs=20)
        )

    async def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """Ask the verifier itself."""
        powers = SessionPowers(self.session.question, self.equivalence)
        scores = await self.verifier.score(
            Task(self.sample.prompt, self.fields), candidates, powers
        )
        assert len(scores) == len(candidates)
        return scores

    def unavailable(self, **lacking: Any) -> str | None:
        """Say why the verifier cannot judge by engines that can do everything but this."""
        able = replace(self.engines["main"].capabilities, **lacking)
        return self.verifier.unavailable_among(able, dict.fromkeys(ENGINES, able))

    @property
    def verified(self) -> Usage:
        """What the ledger says that scoring took."""
        return self.ledger.usage[Stage.VERIFY]

    def made(self, what: str) -> int:
        """Return what the engines themselves counted."""
        return sum(engine.log[what] for engine in self.engines.values())

    def at_rest(self) -> bool:
        """Whether nothing runs, waits or is reserved any more."""
        running = sum(engine.running for engine in self.engines.values())
        admission = self.admission
        return (running, admission.running, admission.queued, self.ledger.reserved) == (0, 0, 0, 0)


def same(left: Score, right: Score) -> bool:
    """Whether two scores are equal but for the order of additions."""
    return (
        left.abstained == right.abstained
        and left.value == pytest.approx(right.value, abs=1e-9)
        and left.steps == pytest.approx(right.steps, abs=1e-9)
    )


async def check_order(trial: Trial, order: Sequence[int]) -> None:
    """The scores of permuted candidates are the permuted scores."""
    candidates = trial.sample.candidates
    straight = await trial.score(candidates)
    permuted = await trial.score([candidates[place] for place in order])
    for score, place in zip(permuted, order, strict=True):
        assert same(score, straight[place]), (order, straight, permuted)


async def check_batching(trial: Trial) -> None:
    """All at once is the same as one by one, where candidates are not compared."""
    candidates = trial.sample.candidates
    together = await trial.score(candidates)
    assert not all(score.abstained for score in together), "the sample is never scored"
    assert await trial.score([]) == []
    if trial.verifier.joint:
        return
    alone = [(await trial.score([each]))[0] for each in candidates]
    assert all(map(same, together, alone)), (together, alone)


async def check_range(trial: Trial) -> None:
    """Scores and step scores are finite and, where the kind says so, probabilities."""
    empty = candidate(99, "")
    for score in await trial.score([*trial.sample.candidates, empty]):
        assert not score.abstained or score.value == 0, score
        for value in (score.value, *score.steps):
            assert math.isfinite(value), score
            assert not trial.sample.probabilities or 0 <= value <= 1 + 1e-9, score


async def check_lacking(trial: Trial, lacking: Candidate) -> None:
    """A reply without what is needed is an abstention, and changes no other's score."""
    candidates = trial.sample.candidates
    straight = await trial.score(candidates)
    score, *others = await trial.score([lacking, *candidates])
    assert score == Score(0.0, abstained=True), score
    assert trial.verifier.joint or all(map(same, straight, others)), (straight, others)


async def check_unreadable(trial: Trial) -> None:
    """Who asks an engine and cannot read its answers abstains on everything."""
    assert trial.mute
    scores = await trial.score(trial.sample.candidates)
    if trial.made("started"):
        assert [score for score in scores if not score.abstained] == []


async def check_usage(trial: Trial) -> None:
    """The ledger equals the engines' own count, within what the verifier announces."""
    verifier, candidates = trial.verifier, trial.sample.candidates
    announced = 0
    for count in (1, len(candidates)):
        announced += count
        await trial.score(candidates[:count])
        assert trial.verified.completion_tokens == trial.made("tokens")
        assert trial.verified.calls == trial.made("started")
        assert trial.verified.exact
        assert trial.verified.calls <= verifier.calls * announced, "more calls than announced"
        assert trial.verified.completion_tokens <= verifier.max_tokens * announced
        assert trial.ledger.usage[Stage.SAMPLE] == Usage()
        assert trial.at_rest()
    assert bool(trial.made("started")) == bool(verifier.calls), "announced calls are not made"


async def check_growth(trial: Trial) -> None:
    """What judges replies in the making judges each state, and pays for what is new alone."""
    verifier, (whole, *_) = trial.verifier, trial.sample.candidates
    if not verifier.partial:
        return
    steps = whole.text.split(BLANK_LINE)
    for count in range(1, len(steps) + 1):
        done = count == len(steps)
        text = BLANK_LINE.join(steps[:count]) + ("" if done else BLANK_LINE)
        before = trial.verified
        state = candidate(0, text, "stop" if done else None)
        (scored,) = await trial.session.score([state])
        assert scored.score != UNSCORED or verifier.joint, "a reply in the making is not judged"
        new = trial.verified.completion_tokens - before.completion_tokens
        assert new <= (verifier.max_tokens if count == 1 else verifier.step_tokens)
        if verifier.calls:
            new = trial.verified.calls - before.calls
            assert new <= (verifier.calls if count == 1 else verifier.step_calls)
    ((right,), (grown,)) = await trial.score([whole]), await trial.session.score([whole])
    assert right.abstained or grown.score == pytest.approx(right.value)


async def check_cancel(trial: Trial, rng: random.Random) -> None:
    """Cancelling at any moment leaves nothing running, waiting or reserved."""
    work = asyncio.create_task(trial.session.score(trial.sample.candidates))
    await asyncio.sleep(rng.random() * 2 * trial.delay)
    work.cancel()
    await asyncio.wait([work], timeout=5)
    assert work.done()
    assert work.cancelled() or work.exception() is None
    assert trial.at_rest()
    made = trial.made("tokens")
    await asyncio.sleep(2 * trial.delay)
    assert trial.made("tokens") == made


async def check_deadline(trial: Trial, right: Sequence[Score]) -> None:
    """At the deadline scoring ends: what has no score by then is unscored, the rest is right."""
    started = time.monotonic()
    try:
        scored = await trial.session.score(trial.sample.candidates)
    except (DeadlinePassed, BudgetSpent):
        scored = []
    late = time.monotonic() - started - trial.budget.deadline_s
    assert late < 1.0, f"{late:.1f} s after the deadline"
    for each, score in zip(scored, right, strict=False):
        unscored = each.score == UNSCORED
        assert unscored or trial.verifier.joint or each.score == pytest.approx(score.value)
    assert trial.at_rest()


async def check_payment(trial: Trial, right: Sequence[Score]) -> None:
    """Where the budget ends, the first candidates are scored, and no budget is overrun."""
    scored = await trial.session.score(trial.sample.candidates)
    used, budget = trial.ledger.total, trial.budget
    assert used.calls <= budget.max_calls
    assert used.completion_tokens == trial.made("tokens") <= budget.max_tokens
    assert trial.at_rest()
    if trial.verifier.joint:
        return
    paid = True
    for each, score in zip(scored, right, strict=True):
        if score.abstained:
            continue
        assert paid or each.score == UNSCORED, "a later candidate was paid before an earlier one"
        paid = each.score != UNSCORED
        assert not paid or each.score == pytest.approx(score.value), "scored by what was not paid"


async def wait_until(holds: Callable[[], bool], seconds: float = 2.0) -> None:
    """Wait for what another thread has to notice first."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it goes on"
        await asyncio.sleep(0.01)


def check_class(cls: type[Verifier]) -> None:
    """A class describes itself, forbids what it does not know, and says where it comes from."""
    assert summary(cls).endswith((".", ":")), "the docstring's first line is a sentence"
    for schema in (cls.model_json_schema(), cls.Fields.model_json_schema()):
        assert schema["additionalProperties"] is False
        json.dumps(schema, allow_nan=False)
    assert cls.model_config["frozen"]
    assert cls.Fields.model_config["frozen"]


def check_instance(verifier: Verifier) -> None:
    """An instance cannot be changed, announces what it costs, and names the paper it follows."""
    with pytest.raises(ValueError, match="frozen"):
        verifier.type = "other"  # type: ignore[attr-defined]
    assert 0 <= verifier.step_calls <= verifier.calls
    assert 0 <= verifier.step_tokens <= verifier.max_tokens
    assert (verifier.max_tokens > 0) == (verifier.calls > 0)
    assert verifier.paper or not (verifier.calls or verifier.logprobs is not None)


def check_available(trial: Trial) -> None:
    """It works with engines that can do everything, and says why it cannot with others."""
    verifier = trial.verifier
    assert verifier.engines() <= set(ENGINES)
    assert trial.unavailable() is None
    reason = trial.unavailable(logprobs=None, reply_logprobs=False)
    needs = bool(verifier.calls) or verifier.logprobs is not None
    assert bool(reason) == needs, reason
