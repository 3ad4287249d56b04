"""What a selection is worth on recorded samples: the mean over all ways to draw k of them.

Drawn without replacement, ties by expected credit: of t answers that tie, each counts 1/t. Where
samples of one answer were judged differently, the answer counts as their mean.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ENUMERATED = 20_000
"""Weighted votes go over all subsets up to this many, and over as many random ones beyond."""
TIE = 1e-12
"""Weights this close, as a share of the highest, are equal: they were added in some order."""


class PowerLaw(NamedTuple):
    """log(-log coverage) = intercept + slope · log k, natural logarithms."""

    intercept: float
    slope: float
    r_squared: float


class Estimate(NamedTuple):
    """A mean over all subsets, or over random ones."""

    mean: float
    exact: bool


class _Class(NamedTuple):
    size: int
    right: float
    """The share of its samples that are correct."""


class _Tally(NamedTuple):
    """Subsets in which `tied` answers lead with `top` votes each."""

    top: int
    tied: int
    voters: int
    subsets: int
    right: float
    """Over these subsets, the sum of what the leading answers are worth."""


def random_choice(correct: Sequence[bool]) -> float:
    """Return the chance that a sample picked at random is right: pass@1."""
    return sum(correct) / len(correct)


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Estimate, without bias, the chance that one of k samples is right: 1 - C(n-c, k) / C(n, k).

    It is the oracle: no selection among k samples does better. Chen et al., Evaluating Large
    Language Models Trained on Code, 2107.03374, equation 1.

    Raises:
        ValueError: k is not between 1 and the number of samples.
    """
    _check(samples, k)
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def coverage_law(coverage: Mapping[int, float]) -> PowerLaw:
    """Fit log(-log c) = a + b·log k to coverages by k, by least squares.

    Brown et al., Large Language Monkeys, 2407.21787, section 3.1.
    """
    x = [math.log(k) for k in coverage]
    y = [math.log(-math.log(c)) for c in coverage.values()]
    slope, intercept = statistics.linear_regression(x, y)
    return PowerLaw(intercept, slope, statistics.correlation(x, y) ** 2)


def majority(votes: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Return the chance that the majority of all samples is right; None abstains."""
    classes = _classes(votes, correct).values()
    top = max((each.size for each in classes), default=0)
    leading = [each.right for each in classes if each.size == top]
    return math.fsum(leading) / max(1, len(leading))


def majority_at_k(votes: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Return the chance that the majority of k samples is right, exactly.

    Args:
        votes: each sample's answer; None: it abstains. Where all k abstain, nothing is right.
        correct: whether each sample is right.
        k: samples drawn.

    Raises:
        ValueError: k is not between 1 and the number of samples.
    """
    right = sum(tally.right / tally.tied for tally in _tallies(votes, correct, k))
    return right / math.comb(len(votes), k)


def agreement_at_k(votes: Sequence[str | None], k: int) -> float:
    """Return the mean share of the votes that the majority of k samples has, exactly.

    Abstentions are no votes; where all k abstain the share is 0.

    Raises:
        ValueError: k is not between 1 and the number of samples.
    """
    tallies = _tallies(votes, [False] * len(votes), k)
    shares = sum(tally.subsets * tally.top / tally.voters for tally in tallies)
    return shares / math.comb(len(votes), k)


def best_of_k(scores: Sequence[float], correct: Sequence[bool], k: int) -> float:
    """Return the chance that the highest score among k samples belongs to a right one, exactly.

    Samples of equal score are picked alike; those without a score have -inf.

    Raises:
        ValueError: a score is not a number, or k is not between 1 and the number of samples.
    """
    _check(len(scores), k)
    if any(map(math.isnan, scores)):
        raise ValueError("a score is not a number")
    levels: dict[float, list[bool]] = defaultdict(list)
    for score, right in zip(scores, correct, strict=True):
        levels[score].append(right)
    below, total = 0, 0.0
    for score in sorted(levels):
        upto = below + len(levels[score])
        highest = math.comb(upto, k) - math.comb(below, k)
        total += highest * random_choice(levels[score])
        below = upto
    return total / math.comb(len(scores), k)


def weighted_at_k(
    votes: Sequence[str | None],
    weights: Sequence[float],
    correct: Sequence[bool],
    k: int,
    *,
    seed: int = 0,
) -> Estimate:
    """Return the chance that the answer of most weight among k samples is right.

    Raises:
        ValueError: a weight is negative or not finite, or k is not between 1 and the samples.
    """
    _check(len(votes), k)
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError("a weight is negative or not finite")
    exact = math.comb(len(votes), k) <= ENUMERATED
    classes = _classes(votes, correct)
    if not classes:
        return Estimate(0.0, exact)
    drawn = _all_subsets(len(votes), k) if exact else _random_subsets(len(votes), k, seed)
    member = np.array([[vote == answer for answer in classes] for vote in votes], dtype=float)
    present = drawn @ member > 0
    sums = np.where(present, drawn @ (member * np.array(weights)[:, None]), -np.inf)
    wins = present & (sums >= sums.max(axis=1, keepdims=True) * (1 - TIE))
    right = wins @ np.array([each.right for each in classes.values()])
    return Estimate(float(np.mean(right / np.maximum(1, wins.sum(axis=1)))), exact)


def _tallies(votes: Sequence[str | None], correct: Sequence[bool], k: int) -> Iterator[_Tally]:
    """Count the subsets of k in which anyone votes, by how the vote ends."""
    _check(len(votes), k)
    classes = list(_classes(votes, correct).values())
    silent = len(votes) - sum(each.size for each in classes)
    for top in range(1, k + 1):
        for (voters, tied), (subsets, right) in _draws(classes, top, k).items():
            rest = math.comb(silent, k - voters)
            if tied and rest:
                yield _Tally(top, tied, voters, subsets * rest, right * rest)


def _draws(
    classes: Sequence[_Class], top: int, k: int
) -> Mapping[tuple[int, int], tuple[int, float]]:
    """Count the draws of at most k votes, none with more than `top`, class by class.

    The product of the classes' generating functions: draws by how many vote and how many classes
    have `top` votes, and beside each count the sum of what those classes are worth.
    """
    draws: dict[tuple[int, int], tuple[int, float]] = {(0, 0): (1, 0.0)}
    for size, worth in classes:
        grown: dict[tuple[int, int], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
        for (voters, tied), (subsets, right) in draws.items():
            for taken in range(min(size, top, k - voters) + 1):
                ways, leads = math.comb(size, taken), taken == top
                key = voters + taken, tied + leads
                before = grown[key]
                gain = right + subsets * worth if leads else right
                grown[key] = before[0] + subsets * ways, before[1] + gain * ways
        draws = grown
    return draws


def _classes(votes: Sequence[str | None], correct: Sequence[bool]) -> dict[str, _Class]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for vote, right in zip(votes, correct, strict=True):
        if vote is not None:
            groups[vote].append(right)
    return {vote: _Class(len(group), random_choice(group)) for vote, group in groups.items()}


@lru_cache(maxsize=8)
def _all_subsets(samples: int, k: int) -> NDArray[np.float64]:
    """Return a row of zeros and ones for each subset of k samples."""
    chosen = np.array(list(combinations(range(samples), k)))
    drawn = np.zeros((len(chosen), samples))
    np.put_along_axis(drawn, chosen, 1.0, axis=1)
    return drawn


@lru_cache(maxsize=8)
def _random_subsets(samples: int, k: int, seed: int) -> NDArray[np.float64]:
    order = np.random.default_rng(seed).random((ENUMERATED, samples)).argsort(axis=1)
    return (order < k).astype(float)


def _check(samples: int, k: int) -> None:
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k}, and there are {samples} samples")
