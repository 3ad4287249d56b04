"""Statistics over problems: coverage, its growth, and paired comparisons."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean and its percentile bootstrap interval."""

    mean: float
    low: float
    high: float


class PowerLaw(NamedTuple):
    """log(-log coverage) = intercept + slope · log k, natural logarithms."""

    intercept: float
    slope: float
    r_squared: float


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Estimate, without bias, the chance that one of k samples is right: 1 - C(n-c, k) / C(n, k).

    Chen et al., Evaluating Large Language Models Trained on Code, 2107.03374, equation 1.

    Raises:
        ValueError: k is not between 1 and the number of samples.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k}, and there are {samples} samples")
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def coverage_law(coverage: Mapping[int, float]) -> PowerLaw:
    """Fit log(-log c) = a + b·log k to coverages by k, by least squares.

    Brown et al., Large Language Monkeys, 2407.21787, section 3.1.
    """
    x = [math.log(k) for k in coverage]
    y = [math.log(-math.log(c)) for c in coverage.values()]
    slope, intercept = statistics.linear_regression(x, y)
    return PowerLaw(intercept, slope, statistics.correlation(x, y) ** 2)


def paired_bootstrap(
    differences: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Bootstrap the mean of per-problem differences, resampling problems with replacement.

    The samples of one problem stay together, so this is a cluster bootstrap where a difference is
    itself a mean over samples (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

    Raises:
        ValueError: there is nothing to resample.
    """
    if not differences:
        raise ValueError("a bootstrap needs at least one problem")
    rng = random.Random(seed)
    size = len(differences)
    means = sorted(sum(rng.choices(differences, k=size)) / size for _ in range(resamples))
    tail = (1 - level) / 2
    return Interval(
        sum(differences) / size,
        means[int(tail * (resamples - 1))],
        means[int((1 - tail) * (resamples - 1) + 0.5)],
    )
