"""Shares and draws: by hand, and what holds for all of them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.resampling import logit, multinomial, shares, softmax, systematic
from verifiers.types import UNSCORED

weights_of = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20).filter(any)


class Dice(random.Random):
    """Throws what it is told to."""

    def __init__(self, throws: Iterable[float]) -> None:
        super().__init__()
        self.throws = iter(throws)

    def random(self) -> float:
        return next(self.throws)


def test_the_softmax_of_log_odds_is_in_proportion_to_the_odds() -> None:
    # Odds 4, 1 and 1/4 add up to 21/4.
    expected = [16 / 21, 4 / 21, 1 / 21]
    assert softmax([logit(p) for p in (0.8, 0.5, 0.2)]) == pytest.approx(expected)


def test_scores_are_clipped_and_the_unscored_weigh_nothing() -> None:
    assert logit(7.0) == pytest.approx(-logit(-3.0)) == pytest.approx(math.log(1e6 - 1))
    assert softmax([logit(UNSCORED), logit(0.5)]) == [0.0, 1.0]
    assert softmax([UNSCORED, UNSCORED]) == [0.5, 0.5]
    assert softmax([]) == []


def test_shares_are_rounded_one_after_the_other() -> None:
    assert shares([0.867, 0.117, 0.016], 8) == [7, 1, 0]
    assert shares([0.5, 0.5], 3) == [2, 1]
    # Rounded by themselves these would be 2, 2 and 2, one more than there are.
    assert shares([0.34, 0.33, 0.33], 5) == [2, 2, 1]
    assert shares([1.0, 0.0], 4) == [4, 0]


@given(weights_of, st.integers(0, 100))
def test_shares_add_up(weights: list[float], total: int) -> None:
    assert sum(shares(weights, total)) == total
    assert min(shares(weights, total)) >= 0


def test_independent_draws_by_hand() -> None:
    # Ends at .64, .8, .84 and 1.
    weights = [0.64, 0.16, 0.04, 0.16]
    assert multinomial(weights, 4, Dice([0.1, 0.7, 0.9, 0.95])) == [1, 1, 0, 2]


def test_evenly_spaced_draws_by_hand() -> None:
    # Marks at .125, .375, .625 and .875; ends at .762, .952 and 1.
    assert systematic([16 / 21, 4 / 21, 1 / 21], 4, Dice([0.5])) == [3, 1, 0]


@given(weights_of, st.integers(1, 50), st.integers(0, 99))
def test_evenly_spaced_draws_miss_their_expectation_by_less_than_one(
    weights: list[float], count: int, seed: int
) -> None:
    drawn = systematic(weights, count, random.Random(seed))
    assert sum(drawn) == count
    for weight, times in zip(weights, drawn, strict=True):
        assert abs(times - count * weight / math.fsum(weights)) < 1 + 1e-6
