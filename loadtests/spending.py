"""What a way of spending a budget on recorded samples comes to: right or wrong, and tokens."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from loadtests.pools import Sample
from loadtests.stopping import adaptive_consistency
from strategies.allocation import Choice, Features, affordable_width, features
from strategies.confidence_vote import softmax

WAVE = 4
"""Samples that adaptive consistency draws at a time."""


class Spent(NamedTuple):
    """What a question came to."""

    correct: float
    """Whether the answer is right; where its samples were judged differently, their mean."""
    tokens: float


class Class(NamedTuple):
    """An answer, as the server ranks it: by weight, then by its surest reply."""

    weight: float
    surest: float
    answer: str
    correct: float


def fixed(choice: Choice, order: Sequence[Sample], budget: int) -> Spent:
    """Draw the samples of a strategy in this order, as far as the budget goes."""
    return _drawn(choice, order[: choice.n], 0, budget)


def probed(choice: Choice | None, order: Sequence[Sample], budget: int, probes: int) -> Spent:
    """Draw probes, then the rest of a choice's width as far as the budget is thought to go."""
    seen = whole(order[:probes], budget)
    lengths = [sample.completion_tokens for sample in order[:probes]]
    affords = affordable_width(lengths, max(0, budget - sum(lengths)))
    width = 0 if choice is None or len(seen) < probes else min(choice.n, affords)
    return _drawn(choice, order[: max(width, probes)], probes, budget)


def whole(samples: Sequence[Sample], budget: int) -> Sequence[Sample]:
    """Return the samples that the budget pays in full: one that is cut gives no answer."""
    used = 0
    for count, sample in enumerate(samples):
        used += sample.completion_tokens
        if used > budget:
            return samples[:count]
    return samples


def seen(probes: Sequence[Sample]) -> Features:
    """Describe probes as `compute_optimal` does."""
    ranked = classes(probes, [1.0] * len(probes))
    answered = [each for each in probes if each.answer is not None]
    return features(
        int(ranked[0].weight) if ranked else 0,
        len(answered),
        [each.mean_logprob if each.logprobs else -math.inf for each in probes],
        [each.completion_tokens for each in probes],
    )


def classes(samples: Sequence[Sample], weights: Sequence[float]) -> list[Class]:
    """Return the answers, best first, ties broken as `verifiers.votes` breaks them."""
    groups: dict[str, list[tuple[float, Sample]]] = defaultdict(list)
    for weight, sample in zip(weights, samples, strict=True):
        if sample.answer is not None:
            groups[sample.answer].append((weight, sample))
    found = [
        Class(
            math.fsum(weight for weight, _ in group),
            max(sample.mean_logprob for _, sample in group),
            answer,
            fmean(bool(sample.correct) for _, sample in group),
        )
        for answer, group in groups.items()
    ]
    return sorted(found, key=lambda each: (-each.weight, -each.surest, each.answer))


def _drawn(choice: Choice | None, order: Sequence[Sample], first: int, budget: int) -> Spent:
    if choice is not None and choice.type == "adaptive_consistency":
        order = _until_decided(choice, order, max(first, WAVE))
    paid = whole(order, budget)
    weigh = WEIGHTS["self_consistency" if choice is None else choice.type]
    ranked = classes(paid, weigh(paid))
    tokens = sum(sample.completion_tokens for sample in order)
    return Spent(ranked[0].correct if ranked else 0.0, min(tokens, budget))


def _until_decided(choice: Choice, order: Sequence[Sample], first: int) -> Sequence[Sample]:
    decided = adaptive_consistency((choice.model_extra or {}).get("confidence", 0.95))
    answers = [sample.answer for sample in order]
    ends = range(first, len(order), WAVE)
    return order[: next((end for end in ends if decided(answers[:end])), len(order))]


def _equal(samples: Sequence[Sample]) -> list[float]:
    return [1.0] * len(samples)


def _sure(samples: Sequence[Sample]) -> list[float]:
    confidences = [math.exp(each.mean_logprob) if each.logprobs else 0.0 for each in samples]
    return softmax(confidences, 1.0) if confidences else []


WEIGHTS: dict[str, Callable[[Sequence[Sample]], list[float]]] = {
    "self_consistency": _equal,
    "adaptive_consistency": _equal,
    "early_stopping": _equal,
    "confidence_vote": _sure,
}
"""What a vote weighs, by strategy."""
