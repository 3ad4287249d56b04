"""`forethought bench tune`: a table for `compute_optimal` from pools, and what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from loadtests.inference import paired_bootstrap
from loadtests.pools import Pool
from loadtests.report import table as columns
from loadtests.tune import (
    FOLDS,
    PROBES,
    TOLERANCE,
    Judged,
    Numbers,
    cross_fit,
    fold_tables,
    folds_of,
    learn,
    play,
)
from strategies.allocation import Choice, Table

HEAD = (
    "budget",
    "auto, % right",
    "tokens",
    "best fixed strategy, of each fold",
    "% right",
    "tokens",
    "auto minus it, points",
    "SC@16, % right",
    "auto minus it, points",
    "share of its tokens",
)


class Tuned(NamedTuple):
    """A table, and a report of what it is worth on problems that it was not learned on."""

    table: Table
    report: str


def tune(pools: Sequence[Pool], *, bins: int, orders: int, seed: int = 0) -> Tuned:
    """Learn a table from all problems of the pools; judge it by cross-fitting.

    Raises:
        ValueError: a sample is not judged, or a problem has too few samples.
    """
    problems = [recorded for pool in pools for recorded in pool.recorded]
    outcomes = play(problems, orders=orders, seed=seed)
    parts = folds_of(outcomes.ids, seed=seed)
    tables = fold_tables(outcomes, parts, bins)
    sections, known, start = [], [], 0
    for pool in pools:
        rows = range(start, start := start + len(pool.recorded))
        judged = cross_fit(outcomes, tables, parts, rows)
        sections.append(_section(pool, judged))
        known.append(_provenance(pool, judged))
    provenance = {
        "command": "forethought bench tune",
        "pools": known,
        "folds": FOLDS,
        "orders": orders,
        "seed": seed,
        "tolerance": TOLERANCE,
        "probes": PROBES,
    }
    return Tuned(learn(outcomes, range(len(problems)), provenance, bins), "\n\n".join(sections))


def _section(pool: Pool, judged: dict[int, Judged]) -> str:
    body = [
        [
            f"{budget:,}",
            _percent(each.correct),
            f"{fmean(each.tokens):,.0f}",
            ", ".join(_named(choice) for choice in each.best),
            _percent(each.best_correct),
            f"{fmean(each.best_tokens):,.0f}",
            _points(each.correct, each.best_correct),
            _percent(each.widest_correct),
            _points(each.correct, each.widest_correct),
            f"{100 * sum(each.tokens) / sum(each.widest_tokens):.0f} %",
        ]
        for budget, each in judged.items()
    ]
    title = f"{pool.manifest.model}, {pool.manifest.task}, {len(pool.recorded)} problems:"
    return f"{title}\n\n{columns(HEAD, body)}"


def _provenance(pool: Pool, judged: dict[int, Judged]) -> dict[str, Any]:
    """Say where a table comes from, and what it was worth there, cross-fitted."""
    return {
        "pool": pool.name,
        "task": pool.manifest.task,
        "model": pool.manifest.model,
        "problems": len(pool.recorded),
        "samples": pool.manifest.samples,
        "sampling": dict(pool.manifest.sampling),
        "cross_fitted": {
            str(budget): {
                "correct": round(fmean(each.correct), 4),
                "tokens": round(fmean(each.tokens)),
                "best_fixed_correct": round(fmean(each.best_correct), 4),
                "best_fixed_tokens": round(fmean(each.best_tokens)),
                "sc16_correct": round(fmean(each.widest_correct), 4),
                "sc16_tokens": round(fmean(each.widest_tokens)),
            }
            for budget, each in judged.items()
        },
    }


def _named(choice: Choice) -> str:
    more = "".join(f", {value}" for value in (choice.model_extra or {}).values())
    return f"{choice.type}({choice.n}{more})"


def _percent(chances: Numbers) -> str:
    return f"{100 * chances.mean():.1f}"


def _points(one: Numbers, other: Numbers) -> str:
    gain = paired_bootstrap((100 * (one - other)).tolist())
    return f"{gain.mean:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
