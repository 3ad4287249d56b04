"""The listwise judge: probabilities of being the best, orders, heats, cost."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.best_of_n import BestOfN
from strategies.budget import Budget, Stage
from tests.verifiers.opinions import bench, candidates, quotations, scores
from verifiers.listwise_judge import LABELS, ListwiseJudge, rotations, split
from verifiers.types import Capabilities


def luce(question: str) -> dict[str, float]:
    """Choose in proportion to the number that a reply is; now and then say something else."""
    strengths = [float(each) for each in quotations(question)[1:]]
    whole = sum(strengths)
    chances = {LABELS[at]: 0.8 * each / whole for at, each in enumerate(strengths)}
    return {**chances, "The": 0.2}


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


async def test_the_score_is_the_probability_of_being_named_the_best() -> None:
    request, engine = bench(ListwiseJudge(), luce)
    values = await scores(request, candidates("1", "3", "4"))
    assert values == [pytest.approx(each) for each in (1 / 8, 3 / 8, 4 / 8)]
    assert len(engine.questions) == 2


async def test_letters_that_label_nobody_do_not_count() -> None:
    request, _ = bench(ListwiseJudge(), lambda _: {"I": 0.6, "A": 0.2, "B": 0.2})
    assert await scores(request, candidates("1", "2")) == [0.5, 0.5]
    request, _ = bench(ListwiseJudge(), lambda _: {"I": 0.95, "A": 0.05})
    assert await scores(request, candidates("1", "2")) == [None, None]


@pytest.mark.parametrize("count", [2, 3, 7])
async def test_with_as_many_orders_as_replies_a_place_is_worth_nothing(count: int) -> None:
    request, engine = bench(ListwiseJudge(orders=7), lambda _: {"A": 0.6, "B": 0.4})
    values = await scores(request, candidates(*numbers(count)))
    assert values == [pytest.approx(1 / count)] * count
    assert len(engine.questions) == count
    for place in range(1, count + 1):
        shown = [quotations(each)[place] for each in engine.questions]
        assert sorted(shown, key=int) == numbers(count)


def test_rotations_are_spread_and_never_more_than_there_are() -> None:
    assert [*rotations("abcd", 2)] == [[*"abcd"], [*"cdab"]]
    assert [*rotations("abc", 5)] == [[*"abc"], [*"bca"], [*"cab"]]


@pytest.mark.parametrize("heat", [5, 20])
@pytest.mark.parametrize("count", [6, 21, 60])
async def test_heats_find_what_one_list_would(count: int, heat: int) -> None:
    """A judge that chooses by strengths is consistent: heats and finals lose nothing."""
    request, engine = bench(ListwiseJudge(heat=heat), luce)
    values = await scores(request, candidates(*numbers(count)))
    whole = count * (count + 1) / 2
    assert values == [pytest.approx(each / whole) for each in range(1, count + 1)]
    assert all(2 <= len(quotations(each)) - 1 <= heat for each in engine.questions)


async def test_a_heat_that_cannot_be_read_is_abstained_on() -> None:
    def silent(question: str) -> dict[str, float]:
        return {"Hm": 1.0} if "1" in quotations(question)[1:] else luce(question)

    request, _ = bench(ListwiseJudge(heat=5), silent)
    values = await scores(request, candidates(*numbers(15)))
    assert values[0] is None
    assert sum(value is None for value in values) == 5
    assert sum(value or 0 for value in values) == pytest.approx(1)
    request, engine = bench(ListwiseJudge(heat=5), silent)
    assert await scores(request, candidates(*numbers(10))) == [None] * 10  # a lone winner
    assert len(engine.questions) == 4


async def test_an_order_that_cannot_be_read_is_left_out() -> None:
    def half(question: str) -> dict[str, float]:
        return {"A": 0.9, "B": 0.1} if quotations(question)[1] == "1" else {"Hm": 1.0}

    request, _ = bench(ListwiseJudge(), half)
    assert await scores(request, candidates("1", "2")) == [
        pytest.approx(0.9),
        pytest.approx(0.1),
    ]


async def test_without_two_different_replies_nothing_is_asked() -> None:
    request, engine = bench(ListwiseJudge(), luce)
    assert await scores(request, candidates("1", "1")) == [None, None]
    assert await scores(request, candidates("1")) == [None]
    assert not engine.questions
    values = await scores(request, candidates("1", "3", "1"))
    assert values == [pytest.approx(0.25), pytest.approx(0.75), pytest.approx(0.25)]


async def test_what_the_budget_cannot_pay_is_abstained_on() -> None:
    request, engine = bench(ListwiseJudge(), luce, Budget(100, 1, 60.0))
    assert await scores(request, candidates("1", "3")) == [
        pytest.approx(0.25),
        pytest.approx(0.75),
    ]
    assert len(engine.questions) == 1
    request, _ = bench(ListwiseJudge(heat=5, orders=1), luce, Budget(100, 2, 60.0))
    assert await scores(request, candidates(*numbers(6))) == [None] * 6  # no final


def lists(count: int, heat: int, orders: int) -> int:
    """Count the questions about so many replies."""
    heats = split(numbers(count), heat)
    asked = sum(min(orders, len(each)) for each in heats)
    return asked if len(heats) == 1 else asked + lists(len(heats), heat, orders)


@given(st.integers(2, 3_000), st.integers(5, 20), st.integers(1, 20), st.integers(1, 8))
def test_no_reply_costs_more_than_is_said(count: int, heat: int, orders: int, most: int) -> None:
    judge = ListwiseJudge(heat=heat, orders=orders, most_criteria=most)
    assert lists(count, heat, orders) * most <= judge.calls * count
    assert judge.max_tokens == judge.calls
    assert {len(each) for each in split(numbers(count), heat)} <= set(range(2, heat + 1))


@pytest.mark.parametrize(("count", "heat", "orders"), [(2, 20, 1), (6, 5, 3), (31, 5, 2)])
async def test_the_cost_is_exact(count: int, heat: int, orders: int) -> None:
    judge = ListwiseJudge(heat=heat, orders=orders)
    request, engine = bench(judge, luce)
    await scores(request, candidates(*numbers(count)))
    judged = request.ledger.usage[Stage.VERIFY]
    asked = lists(count, heat, orders)
    assert (judged.calls, judged.completion_tokens, len(engine.questions)) == (asked,) * 3


async def test_criteria_weigh_and_come_last() -> None:
    def opinion(question: str) -> dict[str, float]:
        return luce(question) if "large?" in question else {"A": 0.5, "B": 0.5}

    judge = ListwiseJudge(criteria=("large?", "other?"), weights=(3, 1), orders=1)
    request, engine = bench(judge, opinion)
    values = await scores(request, candidates("1", "3"))
    assert values == [pytest.approx((3 * 0.25 + 0.5) / 4), pytest.approx((3 * 0.75 + 0.5) / 4)]
    first, second = engine.questions
    assert second == first.replace("large?", "other?")
    assert first.endswith("Criterion: large?\nThe best reply (one letter, A to B):")
    assert re.findall(r"^Reply (\w):$", first, re.MULTILINE) == ["A", "B"]


async def test_replies_share_the_characters_that_are_shown() -> None:
    request, engine = bench(ListwiseJudge(characters=8, orders=1), lambda _: {"A": 1.0})
    await scores(request, candidates("abcde", "wxyz"))
    assert sorted(quotations(engine.questions[0])[1:]) == ["wxyz", "…bcde"]


@given(st.permutations([*numbers(12), "3"]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_candidates_does_not_matter(order: list[str]) -> None:
    def biased(question: str) -> dict[str, float]:
        return {**luce(question), "A": 0.3}

    def judged(texts: list[str]) -> dict[str, float | None]:
        request, _ = bench(ListwiseJudge(heat=5), biased)
        return dict(zip(texts, asyncio.run(scores(request, candidates(*texts))), strict=True))

    assert judged(order) == judged(sorted(order))


async def test_it_chooses_for_best_of_n() -> None:
    request, engine = bench(
        ListwiseJudge(), luce, script=lambda _, sampling, i: str(1 + sampling.first + i)
    )
    outcome = await request.run(BestOfN(n=6))
    assert outcome.choices[0].text == "6"
    assert request.ledger.total.completion_tokens == engine.log["tokens"]


def test_it_compares_and_needs_alternatives() -> None:
    assert ListwiseJudge().joint
    few = Capabilities(100, logprobs=5)
    assert "5 of the 20" in str(ListwiseJudge().unavailable(few, few))
