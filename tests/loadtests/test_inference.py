"""Intervals cover what they say, on simulated pools; tests follow from them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from loadtests.estimators import majority_at_k
from loadtests.inference import (
    Interval,
    cluster_bootstrap,
    holm,
    paired_bootstrap,
    paired_p_value,
    tost,
)

Counts = NDArray[np.int64]
"""Samples of a problem by what they answer: right, wrong one way, wrong another, nothing."""
SAMPLES = 16
PROBLEMS = 100
POOLS = 1_000

differences_of = st.lists(st.floats(-100, 100), min_size=1, max_size=30)
probabilities = st.lists(st.floats(0, 1), max_size=12)


def test_equal_differences_leave_no_doubt() -> None:
    assert paired_bootstrap([2.0] * 9) == (2.0, 2.0, 2.0)


def test_nothing_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match="at least one"):
        paired_bootstrap([])
    with pytest.raises(ValueError, match="empty"):
        cluster_bootstrap([[1.0], []])


@settings(deadline=None)
@given(differences_of)
def test_the_mean_lies_between_the_extremes_and_a_seed_repeats(differences: list[float]) -> None:
    interval = paired_bootstrap(differences, resamples=200, seed=3)
    assert min(differences) - 1e-9 <= interval.low <= interval.high <= max(differences) + 1e-9
    assert interval == paired_bootstrap(differences, resamples=200, seed=3)


@settings(deadline=None)
@given(differences_of)
def test_a_mirror_image_has_the_mirrored_interval(differences: list[float]) -> None:
    interval = paired_bootstrap(differences, resamples=200)
    mirrored = paired_bootstrap([-each for each in differences], resamples=200)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_a_skewed_mean_has_the_interval_that_scipy_gives() -> None:
    """By scipy.stats.bootstrap, BCa with 400,000 resamples; percentile: 66.2 to 717.8."""
    interval = paired_bootstrap([2.0**k for k in range(12)], resamples=40_000)
    assert interval == pytest.approx((341.25, 109.5, 889.3), rel=0.02)


def simulated(problems: int, rng: np.random.Generator) -> Counts:
    """Draw problems: success is Beta-distributed, a fifth of the rest abstains."""
    right = rng.beta(0.6, 1.0, size=problems)
    shares = np.stack([right, *(share * (1 - right) for share in (0.5, 0.3, 0.2))], axis=1)
    return rng.multinomial(SAMPLES, shares)


@cache
def majority_at_8(counts: tuple[int, ...]) -> float:
    votes = [vote for vote, n in zip(["a", "b", "c", None], counts, strict=True) for _ in range(n)]
    return majority_at_k(votes, [vote == "a" for vote in votes], 8)


def gain(counts: Counts) -> NDArray[np.float64]:
    """Return majority@8 - pass@1 of each problem."""
    return np.array([majority_at_8(tuple(row)) for row in counts.tolist()]) - counts[:, 0] / SAMPLES


def covered(intervals: list[Interval], truth: float) -> float:
    return sum(each.low <= truth <= each.high for each in intervals) / len(intervals)


def test_intervals_cover_the_truth_95_times_in_100_simulated_pools() -> None:
    rng = np.random.default_rng(24)
    population = simulated(300_000, rng)
    gains, clusters = [], []
    for pool in range(POOLS):
        counts = simulated(PROBLEMS, rng)
        groups = [[1.0] * right + [0.0] * (SAMPLES - right) for right in counts[:, 0].tolist()]
        gains.append(paired_bootstrap(gain(counts).tolist(), resamples=1_000, seed=pool))
        clusters.append(cluster_bootstrap(groups, resamples=1_000, seed=pool))
    assert covered(gains, float(gain(population).mean())) == pytest.approx(0.95, abs=0.02)
    assert covered(clusters, population[:, 0].mean() / SAMPLES) == pytest.approx(0.95, abs=0.02)


def test_rare_differences_are_missed_on_both_sides_alike() -> None:
    rng = np.random.default_rng(8)
    below = above = 0
    for pool in range(POOLS):
        drawn = (rng.random(PROBLEMS) < 0.08).astype(float)
        interval = paired_bootstrap(drawn.tolist(), resamples=1_000, seed=pool)
        below += interval.high < 0.08
        above += interval.low > 0.08
    assert 0.93 <= 1 - (below + above) / POOLS <= 0.985
    assert max(below, above) < 3 * min(below, above)


def test_clusters_of_one_size_make_pooling_no_difference() -> None:
    groups = [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    assert cluster_bootstrap(groups) == pytest.approx(cluster_bootstrap(groups, pooled=True))
    assert cluster_bootstrap(groups) == paired_bootstrap([0.5, 1.0, 0.0, 0.5])


def test_pooling_weighs_clusters_by_their_size() -> None:
    groups = [[1.0], [0.0] * 9]
    assert cluster_bootstrap(groups).mean == 0.5
    assert cluster_bootstrap(groups, pooled=True).mean == 0.1
    whole = cluster_bootstrap([[1.0], [1.0] * 9, [1.0] * 3], pooled=True)
    assert whole == (1.0, 1.0, 1.0)


def test_pooled_clusters_cover_the_truth() -> None:
    rng = np.random.default_rng(3)
    hits = []
    for pool in range(500):
        rates, sizes = rng.beta(2, 3, 60), rng.integers(1, 9, 60)
        groups = [(rng.random(n) < rate).tolist() for rate, n in zip(rates, sizes, strict=True)]
        hits.append(cluster_bootstrap(groups, pooled=True, resamples=500, seed=pool))
    assert 0.92 <= covered(hits, 0.4) <= 0.975


@settings(deadline=None)
@given(st.lists(st.integers(-4, 6).map(float), min_size=5, max_size=40))
def test_the_p_value_is_where_the_interval_reaches_zero(differences: list[float]) -> None:
    p = paired_p_value(differences, resamples=2_000)
    assert 0 < p <= 1
    for level in (0.8, 0.9, 0.95, 0.99):
        interval = paired_bootstrap(differences, resamples=2_000, level=level)
        if interval.low > 0 or interval.high < 0:
            assert p <= 1.05 * (1 - level) + 0.03
        elif interval.low < 0 < interval.high:
            assert p >= 0.95 * (1 - level) - 0.03


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_a_skewed_mean_has_a_p_value_to_its_interval(level: float) -> None:
    skewed = [2.0**k for k in range(12)]
    _, low, high = paired_bootstrap(skewed, level=level, resamples=40_000)
    for end in (low, high):
        p = paired_p_value([each - end for each in skewed], resamples=40_000)
        assert p == pytest.approx(1 - level, rel=0.03)
    inside = tost([each - 341.25 for each in skewed], high - 341.25, resamples=40_000)
    assert inside.p == pytest.approx((1 - level) / 2, rel=0.03)


def test_p_values_are_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(11)
    p_values = [
        paired_p_value(rng.normal(size=50).tolist(), resamples=500, seed=trial)
        for trial in range(1_000)
    ]
    assert 0.03 <= np.mean([p <= 0.05 for p in p_values]) <= 0.075
    assert 0.45 <= np.mean([p <= 0.5 for p in p_values]) <= 0.55


def test_equivalence_needs_the_whole_interval_inside_the_margin() -> None:
    rng = np.random.default_rng(2)
    small = rng.normal(0.0, 0.1, 200).tolist()
    assert tost(small, 0.05).equivalent
    assert tost(small, 0.05).p < 0.001
    assert not tost(small, 0.005).equivalent
    few = rng.normal(0.0, 1.0, 8).tolist()
    assert not tost(few, 0.1).equivalent
    assert tost(few, 0.1).p > 0.05
    assert not tost([each + 0.06 for each in small], 0.05).equivalent
    assert tost([each + 0.06 for each in small], 0.05).p > 0.5
    assert tost(small, 0.05).interval == paired_bootstrap(small, level=0.9)
    with pytest.raises(ValueError, match="margin"):
        tost(small, 0.0)


def test_equivalence_is_found_in_error_as_often_as_said() -> None:
    rng = np.random.default_rng(12)
    found = [
        tost(rng.normal(0.5, 1.0, 60).tolist(), 0.5, resamples=500, seed=trial).equivalent
        for trial in range(1_000)
    ]
    assert 0.03 <= np.mean(found) <= 0.075


def test_holm_by_hand() -> None:
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@settings(deadline=None)
@given(probabilities)
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [high for _, high in pairs] == sorted(adjusted)
    for p, high in pairs:
        assert p <= high <= min(1.0, len(p_values) * p)
