"""The estimators against plain enumeration of all subsets, and against published figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.curves import Selected, curves
from loadtests.estimators import (
    agreement_at_k,
    best_of_k,
    coverage_law,
    majority,
    majority_at_k,
    pass_at_k,
    random_choice,
    weighted_at_k,
)
from loadtests.pools import Sample

Drawn = tuple[int, ...]
"""The indices of the samples drawn."""

SAMPLES = 100
PUBLISHED = {
    "cot": {1: 4.03, 2: 7.28, 5: 14.29, 10: 21.48, 20: 29.55, 50: 40.68, 100: 49.0},
    "io": {1: 7.34, 2: 10.57, 5: 14.92, 10: 17.89, 20: 21.15, 50: 27.28, 100: 33.0},
}

votes_of_a_problem = st.lists(st.sampled_from(["1", "2", "3", "4", None]), min_size=1, max_size=8)
right_answers = st.sets(st.sampled_from(["1", "2", "3", "4"]))


def mean_over_subsets(value: Callable[[Drawn], float], samples: int, k: int) -> float:
    subsets = list(combinations(range(samples), k))
    return math.fsum(map(value, subsets)) / len(subsets)


def winners(votes: Sequence[str | None], weights: Sequence[float], drawn: Drawn) -> list[str]:
    sums: dict[str, float] = {}
    for index in drawn:
        vote = votes[index]
        if vote is not None:
            sums[vote] = sums.get(vote, 0.0) + weights[index]
    return [vote for vote, total in sums.items() if total == max(sums.values())]


def credit(leading: Sequence[str], right: set[str]) -> float:
    return sum(vote in right for vote in leading) / len(leading) if leading else 0.0


def game_of_24(kind: str, k: int) -> float:
    counts = json.loads((Path(__file__).parents[1] / "data/game24_gpt4_correct.json").read_text())
    return sum(pass_at_k(correct, SAMPLES, k) for correct in counts[kind]) / len(counts[kind])


@pytest.mark.parametrize(
    ("kind", "k", "percent"),
    [(kind, k, percent) for kind, row in PUBLISHED.items() for k, percent in row.items()],
)
def test_pass_at_k_of_gpt_4_on_game_of_24(kind: str, k: int, percent: float) -> None:
    assert round(100 * game_of_24(kind, k), 2) == percent


def test_coverage_grows_by_a_power_law() -> None:
    law = coverage_law({k: game_of_24("cot", k) for k in PUBLISHED["cot"]})
    assert (round(law.intercept, 3), round(law.slope, 3)) == (1.183, -0.329)
    assert round(law.r_squared, 4) == 0.9997


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    expected = mean_over_subsets(lambda drawn: any(right[i] for i in drawn), len(right), k)
    assert pass_at_k(sum(right), len(right), k) == pytest.approx(expected)


@settings(deadline=None)
@given(votes_of_a_problem, right_answers, st.data())
def test_majority_is_the_mean_over_all_subsets(
    votes: list[str | None], right: set[str], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(votes)))
    correct = [vote in right for vote in votes]
    equal = [1.0] * len(votes)
    expected = mean_over_subsets(
        lambda drawn: credit(winners(votes, equal, drawn), right), len(votes), k
    )
    assert majority_at_k(votes, correct, k) == pytest.approx(expected)
    estimate = weighted_at_k(votes, equal, correct, k)
    assert estimate.exact
    assert estimate.mean == pytest.approx(expected)
    assert majority(votes, correct) == pytest.approx(majority_at_k(votes, correct, len(votes)))


@settings(deadline=None)
@given(votes_of_a_problem, st.data())
def test_agreement_is_the_mean_over_all_subsets(
    votes: list[str | None], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(votes)))

    def share(drawn: Drawn) -> float:
        cast = [votes[i] for i in drawn if votes[i] is not None]
        return max(cast.count(vote) for vote in cast) / len(cast) if cast else 0.0

    assert agreement_at_k(votes, k) == pytest.approx(mean_over_subsets(share, len(votes), k))


@settings(deadline=None)
@given(votes_of_a_problem, right_answers, st.data())
def test_weighted_votes_are_the_mean_over_all_subsets(
    votes: list[str | None], right: set[str], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(votes)))
    eighths = st.integers(0, 8).map(lambda number: number / 8)
    weights = data.draw(st.lists(eighths, min_size=len(votes), max_size=len(votes)))
    expected = mean_over_subsets(
        lambda drawn: credit(winners(votes, weights, drawn), right), len(votes), k
    )
    estimate = weighted_at_k(votes, weights, [vote in right for vote in votes], k)
    assert estimate.exact
    assert estimate.mean == pytest.approx(expected)


def test_weights_tie_in_whatever_order_they_add_up() -> None:
    votes, weights = ["a", "a", "a", "b"], [0.1, 0.2, 0.3, 0.6]
    assert 0.1 + 0.2 + 0.3 != 0.6
    assert weighted_at_k(votes, weights, [True, True, True, False], 4) == (0.5, True)


def test_too_many_subsets_are_drawn_at_random() -> None:
    votes = [*["a"] * 9, *["b"] * 8, None, None, None]
    correct = [vote == "a" for vote in votes]
    estimate = weighted_at_k(votes, [1.0] * 20, correct, 9)
    assert not estimate.exact
    assert estimate.mean == pytest.approx(majority_at_k(votes, correct, 9), abs=0.015)
    assert estimate == weighted_at_k(votes, [1.0] * 20, correct, 9)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([-math.inf, -1.5, 0.0, 2.0]), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_best_of_k_is_the_mean_over_all_subsets(
    samples: list[tuple[float, bool]], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(samples)))

    def picked(drawn: Drawn) -> float:
        top = max(samples[i][0] for i in drawn)
        tied = [samples[i][1] for i in drawn if samples[i][0] == top]
        return sum(tied) / len(tied)

    scores, correct = [score for score, _ in samples], [right for _, right in samples]
    expected = mean_over_subsets(picked, len(samples), k)
    assert best_of_k(scores, correct, k) == pytest.approx(expected)


def test_one_answer_judged_differently_counts_as_its_mean() -> None:
    votes, correct = ["a", "a", "b"], [True, False, False]
    for k in (1, 2, 3):
        estimate = weighted_at_k(votes, [1.0] * 3, correct, k)
        assert estimate.mean == pytest.approx(majority_at_k(votes, correct, k))
    assert majority_at_k(votes, correct, 3) == 0.5


def test_majority_of_half_of_a_hundred_samples_stays_exact() -> None:
    votes = [str(number % 10) for number in range(100)]
    correct = [vote == "3" for vote in votes]
    assert majority_at_k(votes, correct, 50) == pytest.approx(0.1)


def sample(number: int, answer: str | None, correct: bool | None, *logprobs: float) -> Sample:
    return Sample("p", number, "", "stop", 1, 10, logprobs=logprobs, answer=answer, correct=correct)


def test_curves_set_every_selection_beside_chance_and_oracle() -> None:
    problem = [
        sample(0, "a", True, -0.1, -0.3),
        sample(1, "b", False, -1.0),
        sample(2, "b", False, -3.0),
        sample(3, None, False),
    ]
    table = curves([problem, problem], [1, 4])
    assert table[4] == (Selected(0.25, 0.0, 1.0, 1.0, 1.0, True),) * 2
    assert table[1][0] == pytest.approx(Selected(0.25, 0.25, 0.25, 0.25, 0.25, True))


def test_samples_that_nobody_judged_are_no_pool_to_select_from() -> None:
    with pytest.raises(ValueError, match="not judged"):
        curves([[sample(0, "a", None)]], [1])


@pytest.mark.parametrize("k", [0, 4])
def test_k_samples_have_to_be_there(k: int) -> None:
    votes, correct = ["a", "b", None], [True, False, False]
    for estimate in (
        lambda: pass_at_k(1, 3, k),
        lambda: majority_at_k(votes, correct, k),
        lambda: agreement_at_k(votes, k),
        lambda: best_of_k([0.0] * 3, correct, k),
        lambda: weighted_at_k(votes, [1.0] * 3, correct, k),
    ):
        with pytest.raises(ValueError, match="there are 3 samples"):
            estimate()


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_weights_are_finite_and_not_negative(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        weighted_at_k(["a"], [weight], [True], 1)


def test_a_score_is_a_number() -> None:
    with pytest.raises(ValueError, match="not a number"):
        best_of_k([math.nan], [True], 1)


def test_random_choice_is_the_share_of_right_samples() -> None:
    assert random_choice([True, False, False, True]) == 0.5
