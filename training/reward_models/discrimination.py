"""How well scores tell right replies from wrong ones, and what they are worth as probabilities."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from loadtests.auc import pair_outcomes
from loadtests.calibrate import fit
from verifiers.calibration import Calibration

LEAST = 50
"""Replies that a calibration is fitted on and tested with."""


@dataclass(frozen=True, slots=True)
class Graded:
    """A reply that was scored, and whether it is right."""

    problem: str
    score: float
    right: bool


def discrimination(replies: Sequence[Graded]) -> dict[str, float]:
    """Measure scores on replies to problems that were not trained on; what cannot be is left out.

    `auc`: the share of pairs of a right and a wrong reply in which the right one has the higher
    score, of all pairs; `auc_within`: of pairs of one problem; `best`: the share of problems whose
    highest score is a right reply's; `random`: what choosing at random would make that.
    """
    problems = list(_by_problem(replies).values())
    whole = pair_outcomes([each.score for each in replies], [each.right for each in replies])
    within = [
        outcome
        for each in problems
        for outcome in pair_outcomes([x.score for x in each], [x.right for x in each])
    ]
    found = {"auc": whole, "auc_within": within}
    figures = {name: fmean(outcomes) for name, outcomes in found.items() if outcomes}
    return {
        **figures,
        "best": fmean(max(each, key=lambda x: x.score).right for each in problems),
        "random": fmean(fmean(x.right for x in each) for each in problems),
    }


def calibrated(replies: Sequence[Graded], origin: Mapping[str, Any]) -> Calibration | None:
    """Fit a calibration on half of the problems; None where there is nothing to fit.

    That is so with few replies, all right or all wrong, or scores that say nothing.
    """
    if len(replies) < LEAST:
        return None
    problems = [[(x.score, x.right) for x in each] for each in _by_problem(replies).values()]
    try:
        return fit(problems, "temperature", origin).calibration
    except ValueError:
        return None


def probability(log_odds: float) -> float:
    """Return σ(log_odds), without overflow."""
    return 0.5 * (1.0 + math.tanh(log_odds / 2))


def _by_problem(replies: Sequence[Graded]) -> dict[str, list[Graded]]:
    problems: dict[str, list[Graded]] = defaultdict(list)
    for each in replies:
        problems[each.problem].append(each)
    return problems
