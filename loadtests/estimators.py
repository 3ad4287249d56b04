"""Statistics of paired comparisons over problems."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean and its percentile bootstrap interval."""

    mean: float
    low: float
    high: float


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
