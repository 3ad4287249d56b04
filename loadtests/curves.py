"""Every selection side by side, on one problem's samples and over widths k."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from loadtests.estimators import (
    best_of_k,
    majority_at_k,
    pass_at_k,
    random_choice,
    weighted_at_k,
)
from loadtests.pools import Sample


class Selected(NamedTuple):
    """What k samples of one problem are worth, by who selects among them: chances to be right."""

    random: float
    """Any of them: pass@1, the floor."""
    majority: float
    weighted: float
    """Votes weighted by e to the mean log-probability per token."""
    best: float
    """The highest mean log-probability per token."""
    oracle: float
    """A right one if there is any: pass@k, the ceiling."""
    exact: bool
    """Whether `weighted` is over all subsets, as the others are, or over random ones."""


def curves(
    problems: Sequence[Sequence[Sample]], ks: Iterable[int]
) -> dict[int, tuple[Selected, ...]]:
    """Return by width what each problem's samples are worth, in the problems' order.

    Problem by problem, so that columns and widths can be compared in pairs.

    Raises:
        ValueError: a sample is not judged, or a problem has fewer than k samples.
    """
    return {k: tuple(select(samples, k) for samples in problems) for k in ks}


def select(samples: Sequence[Sample], k: int) -> Selected:
    """Return what k samples of a problem are worth.

    Raises:
        ValueError: a sample is not judged, or there are fewer than k.
    """
    correct = judged(samples)
    answers = [sample.answer for sample in samples]
    scores = [sample.mean_logprob if sample.logprobs else -math.inf for sample in samples]
    weighted = weighted_at_k(answers, [math.exp(score) for score in scores], correct, k)
    return Selected(
        random_choice(correct),
        majority_at_k(answers, correct, k),
        weighted.mean,
        best_of_k(scores, correct, k),
        pass_at_k(sum(correct), len(correct), k),
        weighted.exact,
    )


def judged(samples: Sequence[Sample]) -> list[bool]:
    """Return whether each sample is right.

    Raises:
        ValueError: a sample is not judged.
    """
    correct = [sample.correct for sample in samples if sample.correct is not None]
    if len(correct) < len(samples):
        raise ValueError("a sample is not judged")
    return correct
