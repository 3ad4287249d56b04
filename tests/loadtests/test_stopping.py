"""Stopping rules over all orders of a few samples, and adaptive consistency by its definition."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.estimators import majority_at_k
from loadtests.pools import Sample
from loadtests.stopping import Stopped, adaptive_consistency, fixed, lead, over_orders


def samples_of(answers: list[str | None]) -> list[Sample]:
    return [
        Sample("p", number, "", "stop", 1, 10 + number, answer=answer, correct=answer == "a")
        for number, answer in enumerate(answers)
    ]


answers_of_a_problem = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=5)


@settings(deadline=None)
@given(answers_of_a_problem, st.data())
def test_a_fixed_number_is_the_majority_over_subsets(
    answers: list[str | None], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(answers)))
    stopped = over_orders(fixed(k), samples_of(answers))
    correct = majority_at_k(answers, [answer == "a" for answer in answers], k)
    tokens = k * (10 + (len(answers) - 1) / 2)
    assert stopped == pytest.approx((correct, k, tokens))


@settings(deadline=None)
@given(answers_of_a_problem)
def test_a_rule_is_averaged_over_all_permutations(answers: list[str | None]) -> None:
    def twice(seen: object) -> bool:
        assert isinstance(seen, list)
        return any(seen.count(answer) == 2 for answer in ("a", "b", "c"))

    runs = []
    for order in permutations(samples_of(answers)):
        used = 0
        while used < len(order) and not twice([each.answer for each in order[:used]]):
            used += 1
        seen = [each.answer for each in order[:used]]
        counts = {answer: seen.count(answer) for answer in seen if answer is not None}
        leading = [each for each in counts if counts[each] == max(counts.values())]
        tokens = sum(each.completion_tokens for each in order[:used])
        runs.append(("a" in leading) / max(1, len(leading)) * np.array([1.0, 0, 0]))
        runs[-1] += [0, used, tokens]
    assert over_orders(twice, samples_of(answers)) == pytest.approx(tuple(np.mean(runs, axis=0)))


def test_random_orders_come_near_all_orders_and_repeat() -> None:
    samples, rule = samples_of(["a", "a", "b", None, "a", "b", "a"]), adaptive_consistency(0.8)
    every = over_orders(rule, samples, orders=math.factorial(7))
    some = over_orders(rule, samples, orders=2000, seed=1)
    assert some == pytest.approx(every, rel=0.02)
    assert some != every
    assert some == over_orders(rule, samples, orders=2000, seed=1)


def test_a_wave_counts_whole() -> None:
    samples = samples_of(["a"] * 8)
    assert over_orders(fixed(3), samples, wave=4).samples == 4
    assert over_orders(fixed(7), samples, wave=3).samples == 8
    assert over_orders(fixed(20), samples) == Stopped(1.0, 8.0, sum(range(10, 18)))


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 0), (4, 1), (7, 3), (5, 5), (2, 6)])
def test_the_lead_is_the_tail_of_a_beta(first: int, second: int) -> None:
    theta = np.linspace(0.5, 1, 200_001)
    density = theta**first * (1 - theta) ** second
    beta = math.factorial(first) * math.factorial(second) / math.factorial(first + second + 1)
    assert lead(first, second) == pytest.approx(np.trapezoid(density, theta) / beta, abs=1e-9)


def test_nothing_stops_before_three_parsed_answers() -> None:
    eager, usual = adaptive_consistency(0.5), adaptive_consistency()
    assert not eager(["a", "a", None, None])
    assert eager(["a", "a", None, "a"])
    assert not usual(["a"] * 3)
    assert usual(["a"] * 4)
    assert not usual(["a"] * 4 + ["b"])
    assert not usual([])
