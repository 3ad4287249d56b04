"""How a population is divided by weight: shares that are rounded, and draws by chance."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from verifiers.types import UNSCORED

CLIP = 1e-6
"""Nearest to 0 and 1 that a probability may come."""


def logit(score: float) -> float:
    """Return the log-odds of a score, clipped to (0, 1); unscored stays so."""
    if score == UNSCORED:
        return UNSCORED
    clipped = min(max(score, CLIP), 1 - CLIP)
    return math.log(clipped / (1 - clipped))


def softmax(values: Sequence[float]) -> list[float]:
    """Return softmax weights that sum to 1; unscored gets none, or as much as all others are."""
    top = max(values, default=UNSCORED)
    weights = [1.0 if top == UNSCORED else math.exp(value - top) for value in values]
    whole = math.fsum(weights)
    return [weight / whole for weight in weights]


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Divide a total: each in turn gets its rounded share of what those before it left over."""
    given: list[int] = []
    for place, weight in enumerate(weights):
        rest = math.fsum(weights[place:])
        part = weight / rest if rest else 0.0
        given.append(math.floor((total - sum(given)) * part + 0.5))
    return given


def multinomial(weights: Sequence[float], count: int, rng: random.Random) -> list[int]:
    """Return how often each is drawn in `count` independent draws."""
    drawn = Counter(rng.choices(range(len(weights)), weights, k=count))
    return [drawn[place] for place in range(len(weights))]


def systematic(weights: Sequence[float], count: int, rng: random.Random) -> list[int]:
    """Return how often each is drawn by `count` marks at equal distances, their start random."""
    ends = list(accumulate(weights))
    start = rng.random()
    marks = ((start + index) / count * ends[-1] for index in range(count))
    drawn = Counter(bisect_right(ends, mark, hi=len(ends) - 1) for mark in marks)
    return [drawn[place] for place in range(len(weights))]
