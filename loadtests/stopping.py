"""When to stop sampling: rules that see the answers so far, judged on recorded samples."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

from loadtests.curves import judged
from loadtests.estimators import majority
from loadtests.pools import Sample
from strategies.adaptive_consistency import lead

Rule = Callable[[Sequence[str | None]], bool]
"""Tells from the answers so far, None for an abstention, whether to stop."""
ENOUGH = 3
"""Parsed answers before adaptive consistency may stop."""


class Stopped(NamedTuple):
    """What a rule does on one problem: means over orders of its samples."""

    correct: float
    """The chance that the majority of the samples used is right, ties by expected credit."""
    samples: float
    tokens: float
    """Completion tokens of the samples used."""


def over_orders(
    rule: Rule, samples: Sequence[Sample], *, wave: int = 1, orders: int = 200, seed: int = 0
) -> Stopped:
    """Average a rule over random orders of one problem's samples: all, if there are no more.

    The samples are used up where the rule never stops. One seed gives problems of one size, and
    every rule, the same orders: differences between rules pair.

    Args:
        rule: asked after every wave.
        samples: the problem's recorded samples, judged.
        wave: samples started at a time; all of them count.
        orders: how many.
        seed: of the orders.

    Raises:
        ValueError: a sample is not judged.
    """
    runs = [_run(rule, order, wave) for order in _orders(samples, orders, seed)]
    return Stopped(*(math.fsum(column) / len(runs) for column in zip(*runs, strict=True)))


def fixed(k: int) -> Rule:
    """Stop after k samples."""
    return lambda answers: len(answers) >= k


def adaptive_consistency(threshold: float = 0.95) -> Rule:
    """Stop when the leading answer is probably ahead of the second for good.

    Aggarwal et al., Let's Sample Step by Step, 2305.11860, the Beta criterion. Abstentions are no
    votes, and nothing stops before three votes.
    """

    def decided(answers: Sequence[str | None]) -> bool:
        counts = Counter(answer for answer in answers if answer is not None)
        first, second = [*(count for _, count in counts.most_common(2)), 0, 0][:2]
        return counts.total() >= ENOUGH and lead(first, second) >= threshold

    return decided


def _run(rule: Rule, order: Sequence[Sample], wave: int) -> Stopped:
    answers = [sample.answer for sample in order]
    ends = range(wave, len(order), wave)
    used = next((end for end in ends if rule(answers[:end])), len(order))
    tokens = sum(sample.completion_tokens for sample in order[:used])
    return Stopped(majority(answers[:used], judged(order[:used])), used, tokens)


def _orders(samples: Sequence[Sample], orders: int, seed: int) -> Iterator[Sequence[Sample]]:
    if math.factorial(len(samples)) <= orders:
        yield from permutations(samples)
        return
    rng = random.Random(seed)
    for _ in range(orders):
        yield rng.sample(samples, len(samples))
