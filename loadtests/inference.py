"""How sure a mean over problems is: bootstrap intervals and tests, and many tests at once.

All intervals are BCa (bias-corrected and accelerated; Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 14). With 100 problems and rare 0/1 differences a percentile interval
holds the truth about as often, but it misses nearly always on the same side: wrong for anything
one-sided, such as equivalence. Where no problem differs at all, no bootstrap sees any doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NORMAL = NormalDist()
RESAMPLES = 10_000
CELLS = 1_000_000
"""Draws made at a time: bounds the memory."""
ROUNDING = 1e-12
"""Means this close, as a share of the largest, are equal: they were added in some order."""


class Interval(NamedTuple):
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


class Tost(NamedTuple):
    """Two one-sided tests of a mean difference against a margin on either side."""

    interval: Interval
    """At level 1 - 2·level: equivalent if it lies inside the margins."""
    p: float
    """Of the worse of the two tests."""
    equivalent: bool


def paired_bootstrap(
    differences: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Bootstrap the mean of per-problem differences, resampling problems with replacement.

    The samples of one problem stay together, so this is a cluster bootstrap where a difference is
    itself a mean over samples.

    Raises:
        ValueError: there is nothing to resample.
    """
    return _bootstrap(differences, np.ones(len(differences)), resamples, seed).interval(level)


def cluster_bootstrap(
    groups: Sequence[Sequence[float]],
    *,
    pooled: bool = False,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Bootstrap a mean over samples that come in clusters, resampling whole clusters.

    Args:
        groups: each cluster's values, such as a problem's samples.
        pooled: False: the mean of the clusters' means, every problem counts alike; True: the sum
            of all values over their number, every sample counts alike. Equal where clusters are
            of one size.
        level: of the interval.
        resamples: how often the clusters are drawn.
        seed: of the draws.

    Raises:
        ValueError: there is nothing to resample, or a cluster is empty.
    """
    if not all(groups):
        raise ValueError("a cluster is empty")
    sums = np.array([sum(group) for group in groups], dtype=float)
    sizes = np.array([len(group) for group in groups], dtype=float)
    if not pooled:
        sums, sizes = sums / sizes, np.ones(len(groups))
    return _bootstrap(sums, sizes, resamples, seed).interval(level)


def paired_p_value(
    differences: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Return the two-sided p-value of a mean difference of 0.

    It is the level at which the interval of `paired_bootstrap` reaches 0, so both agree.

    Raises:
        ValueError: there is nothing to resample.
    """
    bootstrap = _bootstrap(differences, np.ones(len(differences)), resamples, seed)
    below = bootstrap.confidence(0.0)
    return min(1.0, 2 * min(below, 1 - below))


def tost(
    differences: Sequence[float],
    margin: float,
    *,
    level: float = 0.05,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Tost:
    """Test whether the mean difference is less than `margin` away from 0, either way.

    Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657, with bootstrap intervals.

    Raises:
        ValueError: there is nothing to resample, or the margin is not positive.
    """
    if not margin > 0:
        raise ValueError("the margin is not positive")
    bootstrap = _bootstrap(differences, np.ones(len(differences)), resamples, seed)
    interval = bootstrap.interval(1 - 2 * level)
    p = max(bootstrap.confidence(-margin), 1 - bootstrap.confidence(margin))
    return Tost(interval, p, -margin < interval.low and interval.high < margin)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number, in their order: reject those not above the level.

    The chance of any false rejection is then at most the level, however the tests depend on each
    other. Holm, Scand. J. Statist. 6 (1979) 65.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True, slots=True)
class _Bootstrap:
    """A ratio of sums over clusters, and what resampling makes of it."""

    estimate: float
    replicates: NDArray[np.float64]
    acceleration: float
    """How the standard error changes with the mean: a sixth of the influences' skewness."""

    def interval(self, level: float) -> Interval:
        """Return the central interval of a level."""
        tail = (1 - level) / 2
        shares = [self._share(tail), self._share(1 - tail)]
        low, high = np.quantile(self.replicates, shares)
        return Interval(self.estimate, float(low), float(high))

    def confidence(self, value: float) -> float:
        """Return the level at which a one-sided interval up from below ends at `value`."""
        bias = self._normal(self.estimate)
        step = self._normal(value) - bias
        return NORMAL.cdf(step / max(ROUNDING, 1 + self.acceleration * step) - bias)

    def _share(self, level: float) -> float:
        bias = self._normal(self.estimate)
        step = bias + NORMAL.inv_cdf(level)
        return NORMAL.cdf(bias + step / max(ROUNDING, 1 - self.acceleration * step))

    def _normal(self, value: float) -> float:
        """Return the normal quantile of the share of replicates below; half of equal ones count."""
        near = ROUNDING * float(np.abs(self.replicates).max())
        lower = np.count_nonzero(self.replicates < value - near)
        upper = np.count_nonzero(self.replicates > value + near)
        count = len(self.replicates)
        share = (count + lower - upper) / (2 * count)
        return NORMAL.inv_cdf(min(max(share, 1 / (count + 1)), count / (count + 1)))


def _bootstrap(sums: ArrayLike, sizes: ArrayLike, resamples: int, seed: int) -> _Bootstrap:
    numerators, denominators = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    count = len(numerators)
    if not count:
        raise ValueError("a bootstrap needs at least one problem")
    rng = np.random.default_rng(seed)
    replicates = np.empty(resamples)
    step = max(1, CELLS // count)
    for start in range(0, resamples, step):
        drawn = rng.integers(count, size=(min(step, resamples - start), count))
        replicates[start : start + step] = numerators[drawn].sum(1) / denominators[drawn].sum(1)
    estimate = numerators.sum() / denominators.sum()
    influences = numerators - estimate * denominators
    spread = float((influences**2).sum()) ** 1.5
    skew = float((influences**3).sum()) / (6 * spread) if spread > 0 else 0.0
    return _Bootstrap(float(estimate), replicates, skew)
