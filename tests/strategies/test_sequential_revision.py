"""Sequential revision on scripted attempts: what is in sight, what is chosen."""

from __future__ import annotations

import pytest

from strategies.base import Need
from strategies.budget import Budget, Stage
from strategies.sequential_revision import REVISE, SequentialRevision
from tests.strategies.dialogue import Dialogue, text
from tests.strategies.harness import QUESTION, Bench
from verifiers.types import Prompt, Sampling, Score

ASKED = ("user", "What is 6 times 7?")
AGAIN = ("user", REVISE)


def boxes(*answers: int) -> list[str]:
    return [f"it is \\boxed{{{each}}}" for each in answers]


async def test_the_last_attempts_are_in_sight() -> None:
    dialogue = Dialogue(*boxes(1, 2, 3, 4))
    bench = Bench(dialogue.engine)
    await bench.run(SequentialRevision(n=4, context=2))
    one, two, three = [("assistant", each) for each in boxes(1, 2, 3)]
    assert [dialogue.asked(call) for call in range(4)] == [
        [ASKED],
        [ASKED, one, AGAIN],
        [ASKED, one, AGAIN, two, AGAIN],
        [ASKED, two, AGAIN, three, AGAIN],
    ]
    assert dialogue.temperatures == [0.8] * 4
    assert text(bench) == boxes(1, 2, 3, 4)


@pytest.mark.parametrize(("select", "answer"), [("majority", "2"), ("score", "3"), ("last", "1")])
async def test_each_way_to_choose(select: str, answer: str) -> None:
    bench = Bench(Dialogue(*boxes(2, 3, 2, 1)).engine)

    class Favour(type(bench.verifier)):  # type: ignore[misc]
        async def score(self, task, candidates, powers):  # type: ignore[no-untyped-def]
            return [Score(0.9 if "3" in each.text else 0.3) for each in candidates]

    bench.request.verifier = Favour()
    strategy = SequentialRevision.model_validate({"n": 4, "select": select})
    outcome = await bench.run(strategy)
    assert outcome.answer == answer
    assert outcome.agreement == (0.5 if select == "majority" else None)
    assert strategy.required() == (frozenset({Need.SCORES}) if select == "score" else frozenset())
    assert bench.ledger.usage[Stage.VERIFY].calls == (4 if select == "score" else 0)


@pytest.mark.parametrize(("calls", "answer"), [(1, "1"), (2, "1"), (3, "2"), (4, "1")])
async def test_a_spent_budget_still_votes(calls: int, answer: str) -> None:
    # Without scores and likelihoods a tie falls to the answer that sorts first.
    dialogue = Dialogue(*boxes(1, 2, 2, 1, 1))
    bench = Bench(dialogue.engine, Budget(1_000, calls, 60.0), sampling=Sampling(64))
    outcome = await bench.run(SequentialRevision())
    assert (outcome.answer, outcome.stopped_by) == (answer, "calls")
    assert outcome.agreement is not None


async def test_chains_run_side_by_side_and_all_attempts_vote() -> None:
    # Both drafts come first; then each chain sees only its own draft.
    dialogue = Dialogue(*boxes(1, 2, 3, 3))
    outcome = await Bench(dialogue.engine).run(SequentialRevision(n=2, chains=2))
    seen = sorted(dialogue.asked(call)[1] for call in (2, 3))
    assert seen == [("assistant", each) for each in boxes(1, 2)]
    assert (outcome.answer, outcome.agreement) == ("3", 0.5)


async def test_there_are_no_fewer_chains_than_answers_wanted() -> None:
    strategy = SequentialRevision(n=3)
    bench = Bench(n=2)
    outcome = await bench.run(strategy)
    assert strategy.samples(2) == len(outcome.candidates) == 6
    assert len(outcome.choices) == 2


async def test_a_format_rules_every_attempt() -> None:
    dialogue = Dialogue('{"n": 41}', '{"n": 42}', '{"n": 42}')
    prompt = Prompt(QUESTION, response_format={"type": "json_object"})
    outcome = await Bench(dialogue.engine, prompt=prompt).run(SequentialRevision(n=3))
    assert {str(each.response_format) for each in dialogue.prompts} == {"{'type': 'json_object'}"}
    assert outcome.answer == '{"n":42}'
