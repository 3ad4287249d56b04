"""The contract over every discovered verifier, and proof that it can be broken."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from strategies.budget import Budget
from tests.verifiers import contract
from tests.verifiers.contract import AMPLE, Trial
from tests.verifiers.hash_scorer import HashScorer
from tests.verifiers.samples import SAMPLES, SCORER, UNRATED, VALUE_HEAD, Sample
from verifiers.base import Verifier, verifier_classes
from verifiers.equality import AnswerEquality
from verifiers.errors import VerifierUnavailable
from verifiers.labels import label_masses
from verifiers.logprob import Logprob
from verifiers.turns import question_after
from verifiers.types import Candidate, Powers, Score, Task

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

CLASSES = verifier_classes()
ROWS = sorted({*CLASSES, *SAMPLES})
"""Every verifier by itself, and its further settings."""
Open: TypeAlias = Callable[..., Trial]
"""Opens a trial of a row's verifier; keywords are fields of Trial that differ."""

every_row = pytest.mark.parametrize("row", ROWS)
every_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=list(CLASSES))


def needs_more(model: type[BaseModel]) -> list[str]:
    return [name for name, each in model.model_fields.items() if each.is_required()]


@every_class
async def test_every_verifier_that_must_be_told_something_has_a_sample(
    cls: type[Verifier],
) -> None:
    name = cls.model_fields["type"].default
    needed = needs_more(cls) + needs_more(cls.Fields)
    assert name in SAMPLES or not needed, (
        f"{name} needs {', '.join(needed)}: add a sample to tests/verifiers/samples.py"
    )


async def test_every_sample_is_of_a_verifier() -> None:
    assert {row.partition(":")[0] for row in SAMPLES} <= set(CLASSES)


def build(row: str, scorer: HashScorer, **places: str) -> tuple[Verifier, Sample]:
    """Make a row's verifier, not started."""
    name = row.partition(":")[0]
    sample = SAMPLES.get(row, Sample()).filled({SCORER: scorer.url, **places})
    return CLASSES[name].model_validate(sample.configuration), sample


async def lack(verifier: Verifier, trial: Trial) -> str | None:
    """Say what the verifier needs beside engines and this machine has not."""
    try:
        await verifier.check()
    except VerifierUnavailable as error:
        return error.message
    return None if verifier.calls else trial.unavailable()


@pytest_asyncio.fixture(loop_scope="module")
async def start(
    row: str, scorer: HashScorer, equivalence: AnswerEquality, request: pytest.FixtureRequest
) -> AsyncIterator[Open]:
    """Start a row's verifier; skip where this machine lacks what it needs."""
    places = {}
    if row.startswith("value_head"):
        places[VALUE_HEAD] = str(request.getfixturevalue("value_head"))
    verifier, sample = build(row, scorer, **places)

    def begin(**changes: Any) -> Trial:
        return Trial(verifier, sample, equivalence, **changes)

    async with aclosing(verifier):
        await verifier.start()
        if reason := await lack(verifier, begin()):
            pytest.skip(reason)
        yield begin
        scorer.delay = 0.0


@every_row
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
async def test_no_order_of_candidates_changes_their_scores(
    start: Open, row: str, data: st.DataObject
) -> None:
    trial = start()
    order = data.draw(st.permutations(range(len(trial.sample.candidates))))
    await contract.check_order(trial, order)


@every_row
async def test_all_at_once_is_the_same_as_one_by_one(start: Open, row: str) -> None:
    await contract.check_batching(start())


@every_row
async def test_scores_are_finite_and_in_their_range(start: Open, row: str) -> None:
    await contract.check_range(start())


@every_row
async def test_a_reply_without_what_is_needed_is_an_abstention(start: Open, row: str) -> None:
    trial = start()
    if trial.sample.lacking is not None:
        await contract.check_lacking(trial, trial.sample.lacking)


@every_row
async def test_answers_that_cannot_be_read_are_abstentions(start: Open, row: str) -> None:
    await contract.check_unreadable(start(mute=True))


@every_row
async def test_the_ledger_equals_the_engines_own_count(start: Open, row: str) -> None:
    await contract.check_usage(start())


@every_row
async def test_only_what_has_grown_is_paid_for(start: Open, row: str) -> None:
    await contract.check_growth(start())


@every_row
async def test_cancelling_leaves_nothing_running(start: Open, row: str, scorer: HashScorer) -> None:
    right = await start().score(start().sample.candidates)
    rng = random.Random(19)
    scorer.delay = 0.02
    for _ in range(6):
        await contract.check_cancel(start(delay=0.01), rng)
    scorer.delay = 0.0
    await contract.wait_until(lambda: not scorer.running)
    again = await start().score(start().sample.candidates)
    assert all(map(contract.same, right, again)), "cancelled work has left its mark"


@every_row
@pytest.mark.parametrize("deadline_s", [0.0, 0.1])
async def test_the_deadline_ends_it(
    start: Open, row: str, scorer: HashScorer, deadline_s: float
) -> None:
    right = await start().score(start().sample.candidates)
    scorer.delay = 3.0
    late = start(delay=0.3, budget=replace(AMPLE, deadline_s=deadline_s))
    await contract.check_deadline(late, right)
    await contract.wait_until(lambda: not scorer.running)


@every_row
async def test_a_small_budget_pays_for_the_first_candidates(start: Open, row: str) -> None:
    right = await start().score(start().sample.candidates)
    for most in range(1, 8):
        for budget in (replace(AMPLE, max_calls=most), Budget(most, 1_000, 60.0)):
            await contract.check_payment(start(budget=budget), right)


@every_class
async def test_a_class_describes_itself(cls: type[Verifier]) -> None:
    contract.check_class(cls)


@every_row
async def test_an_instance_is_a_value(row: str, scorer: HashScorer) -> None:
    verifier, sample = build(row, scorer)
    contract.check_instance(verifier)
    with pytest.raises(ValueError, match=r"[Ee]xtra"):
        type(verifier).model_validate({**sample.configuration, "no_such_setting": 1})
    with pytest.raises(ValueError, match=r"[Ee]xtra"):
        verifier.request_fields().model_validate({**sample.fields, "no_such_field": 1})


@every_row
async def test_it_says_what_it_needs_of_engines(start: Open, row: str) -> None:
    contract.check_available(start())


class Flawed(Verifier):
    """Asks one token of each candidate, and has one flaw."""

    type: Literal["flawed"] = "flawed"
    flaw: str

    @property
    def calls(self) -> int:
        return 1

    @property
    def max_tokens(self) -> int:
        return 0 if self.flaw == "understates" else 1

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        if self.flaw == "waits":
            await asyncio.sleep(60)
        asked = candidates[::-1] if self.flaw == "pays backwards" else candidates
        prompts = [question_after(task, each, "Is it right?") for each in asked]
        replies = await powers.ask(prompts, max_tokens=1, logprobs=20)
        given = dict(zip((each.id for each in asked), replies, strict=True))
        return [self._score(place, given[each.id]) for place, each in enumerate(candidates)]

    def _score(self, place: int, replies: Sequence[Candidate]) -> Score:
        if not replies:
            return Score(0.0, abstained=True)
        if self.flaw == "never abstains":
            return Score(0.5)
        (value,) = label_masses(replies, ["Yes"])
        if not value:
            return Score(0.0, abstained=True)
        if self.flaw == "goes by place":
            return Score(value / (place + 1))
        return Score(value * (20 if self.flaw == "exceeds" else 1))


async def examine(flaw: str, equivalence: AnswerEquality) -> None:
    def begin(**changes: Any) -> Trial:
        return Trial(Flawed(flaw=flaw), Sample(), equivalence, **changes)

    slow = begin(delay=0.05, budget=replace(AMPLE, deadline_s=0.1))
    await contract.check_deadline(slow, [])
    straight = range(len(begin().sample.candidates))
    await contract.check_order(begin(), straight[::-1])
    await contract.check_batching(begin())
    await contract.check_range(begin())
    await contract.check_unreadable(begin(mute=True))
    await contract.check_usage(begin())
    right = await begin().score(begin().sample.candidates)
    await contract.check_payment(begin(budget=Budget(2, 1_000, 60.0)), right)


FLAWS = ("waits", "goes by place", "exceeds", "never abstains", "understates", "pays backwards")


@pytest.mark.parametrize("flaw", FLAWS)
async def test_with_a_flaw_the_contract_fails(flaw: str, equivalence: AnswerEquality) -> None:
    with pytest.raises((AssertionError, TimeoutError)):
        async with asyncio.timeout(3):
            await examine(flaw, equivalence)


async def test_without_a_flaw_it_holds(equivalence: AnswerEquality) -> None:
    await examine("none", equivalence)


async def test_a_lacking_reply_that_is_scored_fails(equivalence: AnswerEquality) -> None:
    class Lenient(Logprob):
        """Takes what it does not know for certain."""

        async def score(
            self, task: Task, candidates: Sequence[Candidate], powers: Powers
        ) -> list[Score]:
            return [Score(1.0) for _ in candidates]

    with pytest.raises(AssertionError):
        await contract.check_lacking(Trial(Lenient(), Sample(), equivalence), UNRATED)
