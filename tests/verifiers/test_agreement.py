"""Agreement: the share of equal answers, without asking anybody."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engines.scripted import ScriptedEngine
from strategies.best_of_n import BestOfN
from strategies.budget import Budget, Stage
from tests.strategies.harness import Bench
from tests.verifiers.opinions import candidates, scores
from verifiers.agreement import Agreement
from verifiers.types import Prompt

PROSE = "nothing that anyone could ever call an answer"


def boxes(*answers: str) -> list[str]:
    return [f"So \\boxed{{{answer}}}" for answer in answers]


async def test_the_score_is_the_share_of_equal_answers() -> None:
    request = Bench(verifier=Agreement())
    texts = [*boxes("1/2", "2", "0.5"), PROSE, *boxes("3", "0.50")]
    values = await scores(request, candidates(*texts))
    assert values == [3 / 5, 1 / 5, 3 / 5, None, 1 / 5, 3 / 5]


async def test_formulas_are_equal_by_what_they_mean() -> None:
    request = Bench(verifier=Agreement())
    texts = boxes("\\sqrt{12}", "2\\sqrt3", "3\\sqrt2")
    values = await scores(request, candidates(*texts))
    await request.request.service.equivalence.aclose()  # type: ignore[attr-defined]
    assert values == [pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(1 / 3)]


async def test_json_is_compared_as_json() -> None:
    prompt = Prompt(({"role": "user", "content": "?"},), response_format={"type": "json_object"})
    request = Bench(verifier=Agreement(), prompt=prompt)
    values = await scores(
        request, candidates('{"a":1,"b":2}', '{"b": 2, "a": 1.0}', '{"a":1}', "{")
    )
    assert values == [2 / 3, 2 / 3, 1 / 3, None]


async def test_without_answers_all_are_abstained_on() -> None:
    assert await scores(Bench(verifier=Agreement()), candidates(PROSE, PROSE)) == [None, None]
    assert await scores(Bench(verifier=Agreement()), candidates(*boxes("7"))) == [1.0]


async def test_it_asks_nobody_and_a_scoring_is_a_call() -> None:
    engine = ScriptedEngine(lambda _, sampling, index: boxes(*"4744")[sampling.first + index])
    request = Bench(engine, verifier=Agreement())
    outcome = await request.run(BestOfN(n=4))
    assert sorted(each.score for each in outcome.candidates) == [0.25, 0.75, 0.75, 0.75]
    judged = request.ledger.usage[Stage.VERIFY]
    assert (judged.calls, judged.completion_tokens) == (4, 0)
    assert (Agreement().calls, Agreement().max_tokens, Agreement().joint) == (0, 0, True)


async def test_a_new_candidate_changes_all_shares() -> None:
    request = Bench(verifier=Agreement())
    texts = boxes("1", "2", "2")
    assert await scores(request, candidates(*texts[:2])) == [0.5, 0.5]
    assert await scores(request, candidates(*texts)) == [1 / 3, 2 / 3, 2 / 3]


async def test_what_the_budget_cannot_pay_is_not_scored() -> None:
    request = Bench(verifier=Agreement(), budget=Budget(100, 2, 60.0))
    assert await scores(request, candidates(*boxes("1", "1", "2"))) == [1.0, 1.0, None]


@given(st.permutations([*boxes("1", "1", "2", "3", "1.0"), PROSE]))
@settings(max_examples=20, deadline=None)
def test_the_order_of_candidates_does_not_matter(order: list[str]) -> None:
    values = asyncio.run(scores(Bench(verifier=Agreement()), candidates(*order)))
    by_text = dict(zip(order, values, strict=True))
    one, same, two, three, real = boxes("1", "1", "2", "3", "1.0")
    assert by_text == {one: 0.6, same: 0.6, real: 0.6, two: 0.2, three: 0.2, PROSE: None}
