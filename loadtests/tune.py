"""Learn from pools on what `compute_optimal` should spend, and judge it on problems not learned on.

Snell et al., Scaling LLM Test-Time Compute Optimally, 2408.03314, section 3: two folds of problems,
each judged by the table that the other one taught. A fold holds whole problems. Every figure is a
mean over random orders of a problem's samples; all ways to spend see the same orders.
Few problems want few bins: the paper has 5, of 500 problems; 3 are what 2502.06703 has.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.curves import judged
from loadtests.pools import Recorded, Sample
from loadtests.spending import Spent, fixed, probed, seen
from strategies.allocation import Choice, Feature, Features, Row, Table

Numbers = NDArray[np.float64]

BUDGETS = (1024, 2048, 4096, 8192)
PROBES = 4
FOLDS = 2
TOLERANCE = 0.01
"""Accuracy that is given up for fewer tokens: the margin of equivalence of all our tests."""
RIDGE = 0.01
"""Weight of the penalty, as a share of the rows."""
DIGITS = 4

MORE: tuple[Choice, ...] = (
    Choice(type="self_consistency", n=8),
    Choice(type="self_consistency", n=16),
    Choice(type="confidence_vote", n=8),
    Choice(type="confidence_vote", n=16),
    Choice.model_validate({"type": "adaptive_consistency", "n": 16, "confidence": 0.8}),
    Choice.model_validate({"type": "adaptive_consistency", "n": 16, "confidence": 0.95}),
)
AFTER_PROBES: tuple[Choice | None, ...] = (None, *MORE)
"""What the table chooses among; None: the probes' vote stands."""
FIXED: tuple[Choice, ...] = (
    *(Choice(type="self_consistency", n=n) for n in (1, 2, 4)),
    *MORE,
)
"""What one strategy for all questions may be; a single sample is a vote of one."""
WIDEST = Choice(type="self_consistency", n=16)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What everything that can be done comes to, by problem and order: computed once."""

    ids: tuple[str, ...]
    """Of the problems; one that two models were asked comes twice."""
    budgets: tuple[int, ...]
    probes: int
    features: tuple[tuple[Features, ...], ...]
    """Of the probes, by problem and order."""
    wrong: Numbers
    """The share of the samples after the probes that is wrong, by problem and order."""
    after: Numbers
    """By budget, choice after the probes, problem, order; last: correct, tokens."""
    fixed: Numbers
    """By budget, fixed strategy, problem, order; last: correct, tokens."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a budget buys, a number for each problem: the mean over its orders."""

    correct: Numbers
    tokens: Numbers
    best: tuple[Choice, ...]
    """The fixed strategy that each fold is compared with: the best on the other folds."""
    best_correct: Numbers
    best_tokens: Numbers
    widest_correct: Numbers
    """Of self-consistency with 16 under the same budget."""
    widest_tokens: Numbers


def play(
    problems: Sequence[Recorded],
    budgets: Sequence[int] = BUDGETS,
    *,
    probes: int = PROBES,
    orders: int,
    seed: int = 0,
) -> Outcomes:
    """Do everything that can be done with each problem, in random orders of its samples.

    Raises:
        ValueError: a sample is not judged, or a problem has too few samples.
    """
    decks = [_orders(problem, orders, seed) for problem in problems]
    if any(len(order) <= probes for deck in decks for order in deck):
        raise ValueError(f"a problem has no more than {probes} samples")

    def by_budget(way: Any, choices: Sequence[Any], *rest: int) -> Numbers:
        return np.array(
            [
                [[[way(c, order, b, *rest) for order in deck] for deck in decks] for c in choices]
                for b in budgets
            ],
            dtype=float,
        )

    return Outcomes(
        tuple(problem.problem.id for problem in problems),
        tuple(budgets),
        probes,
        tuple(tuple(seen(order[:probes]) for order in deck) for deck in decks),
        np.array([[1 - fmean(judged(order[probes:])) for order in deck] for deck in decks]),
        by_budget(probed, AFTER_PROBES, probes),
        by_budget(fixed, FIXED),
    )


def _orders(problem: Recorded, orders: int, seed: int) -> list[list[Sample]]:
    rng = random.Random(f"{seed} {problem.problem.id}")
    return [rng.sample(problem.samples, len(problem.samples)) for _ in range(orders)]


def learn(
    outcomes: Outcomes, rows: Sequence[int], provenance: Mapping[str, Any], bins: int
) -> Table:
    """Learn a table from these problems (their indices)."""
    flat = [found for row in rows for found in outcomes.features[row]]
    wrong = outcomes.wrong[list(rows)].ravel()
    weights = _fit(flat, wrong)
    blank = Table(
        provenance=dict(provenance),
        probes=outcomes.probes,
        intercept=round(float(wrong.mean()), DIGITS),
        features=weights,
        thresholds=(),
        rows=(Row(max_tokens=1, choices=((),)),),
    )
    difficulties = np.array([blank.difficulty(found) for found in flat])
    cuts = np.quantile(difficulties, [place / bins for place in range(1, bins)])
    thresholds = tuple(sorted({round(float(cut), DIGITS) for cut in cuts}))
    binned = blank.model_copy(update={"thresholds": thresholds})
    places = np.array([binned.bin(found) for found in flat])
    learned = tuple(
        Row(
            max_tokens=budget,
            choices=tuple(
                _ranked(_best(after[:, list(rows)].reshape(len(AFTER_PROBES), -1, 2), places == b))
                for b in range(len(thresholds) + 1)
            ),
        )
        for budget, after in zip(outcomes.budgets, outcomes.after, strict=True)
    )
    return binned.model_copy(update={"rows": learned})


def _fit(found: Sequence[Features], wrong: Numbers) -> dict[str, Feature]:
    """Fit the share of wrong samples by ridge regression on standardised features."""
    names = sorted(set.intersection(*(set(each) for each in found)))
    x = np.array([[each[name] for name in names] for each in found])
    means, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread == 0] = 1.0
    z = (x - means) / spread
    penalty = RIDGE * len(z) * np.eye(len(names))
    slopes = np.linalg.solve(z.T @ z + penalty, z.T @ (wrong - wrong.mean())) / spread
    return {
        name: Feature(weight=round(float(slope), DIGITS), mean=round(float(mean), DIGITS))
        for name, slope, mean in zip(names, slopes, means, strict=True)
    }


def _best(outcomes: Numbers, members: NDArray[np.bool_]) -> Choice | None:
    """Return the cheapest choice that is as right as the rightest; outcomes by choice, draw."""
    if not members.any():
        return None
    correct, tokens = outcomes[:, members].mean(axis=1).T
    good = correct >= correct.max() - TOLERANCE
    return AFTER_PROBES[int(np.where(good, tokens, np.inf).argmin())]


def _ranked(choice: Choice | None) -> tuple[Choice, ...]:
    """Return a choice by preference: a vote by confidence needs log-probabilities."""
    if choice is None:
        return ()
    plain = Choice(type="self_consistency", n=choice.n)
    return (choice, plain) if choice.type == "confidence_vote" else (choice,)


def folds_of(ids: Sequence[str], folds: int = FOLDS, seed: int = 0) -> list[list[int]]:
    """Deal the problems out, by index; a problem that comes twice stays in one fold."""
    unique = sorted(set(ids))
    dealt = random.Random(seed).sample(unique, len(unique))
    return [[i for i, each in enumerate(ids) if each in dealt[f::folds]] for f in range(folds)]


def fold_tables(outcomes: Outcomes, parts: Sequence[Sequence[int]], bins: int) -> list[Table]:
    """Learn for each fold a table from all others."""
    return [learn(outcomes, _others(parts, fold), {}, bins) for fold in range(len(parts))]


def cross_fit(
    outcomes: Outcomes,
    tables: Sequence[Table],
    parts: Sequence[Sequence[int]],
    rows: Sequence[int],
) -> dict[int, Judged]:
    """Judge these problems by what was learned without them, under each budget.

    The fixed strategy that a fold is compared with is chosen among `rows` of the other folds.
    """
    return {
        budget: _judge(outcomes, tables, parts, rows, place)
        for place, budget in enumerate(outcomes.budgets)
    }


def _judge(
    outcomes: Outcomes,
    tables: Sequence[Table],
    parts: Sequence[Sequence[int]],
    rows: Sequence[int],
    place: int,
) -> Judged:
    auto, best = np.zeros((2, len(outcomes.ids), 2))
    means = outcomes.fixed[place].mean(axis=2)
    chosen = []
    for fold, part in enumerate(parts):
        others = sorted(set(_others(parts, fold)) & set(rows))
        name = int(means[:, others, 0].mean(axis=1).argmax())
        chosen.append(FIXED[name])
        for row in set(part) & set(rows):
            auto[row] = _spent(outcomes, tables[fold], place, row)
            best[row] = means[name, row]
    widest = means[FIXED.index(WIDEST)]
    columns = [each[list(rows), figure] for each in (auto, best, widest) for figure in (0, 1)]
    return Judged(columns[0], columns[1], tuple(chosen), *columns[2:])


def _others(parts: Sequence[Sequence[int]], fold: int) -> list[int]:
    return [row for other, part in enumerate(parts) if other != fold for row in part]


def _spent(outcomes: Outcomes, table: Table, place: int, row: int) -> Spent:
    """Return the mean over a problem's orders of what a table does."""
    done = []
    for order, found in enumerate(outcomes.features[row]):
        choices = table.choices(table.bin(found), outcomes.budgets[place])
        chosen = AFTER_PROBES.index(choices[0] if choices else None)
        done.append(outcomes.after[place, chosen, row, order])
    correct, tokens = np.mean(done, axis=0)
    return Spent(float(correct), float(tokens))
