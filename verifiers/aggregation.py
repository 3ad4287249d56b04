"""From the probabilities of a reply's steps to one score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal, TypeAlias

Aggregation: TypeAlias = Literal["last", "min", "product", "mean", "max"]
"""How the steps make the score: the last one alone, the weakest, the product of all, …"""


def aggregate(steps: Sequence[float], how: Aggregation) -> float:
    """Return the score of a reply with these steps, at least one."""
    match how:
        case "last":
            return steps[-1]
        case "min":
            return min(steps)
        case "product":
            return math.prod(steps)
        case "mean":
            return fmean(steps)
        case "max":
            return max(steps)
