"""An evaluation as people read it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from server.checkpoints.evaluation import Evaluation, Measure, points

WAYS = {
    "random": "a reply at random",
    "best": "the best by it",
    "likeliest": "the likeliest with an answer",
    "majority": "majority",
    "weighted": "majority weighted by it",
    "oracle": "a right one if there is any",
}
"""Ways of choosing among replies, by their names in `measures`."""


def evaluation_table(evaluation: Evaluation) -> Table:
    """Lay the figures out: who is right how often, at what cost."""
    level = f"{evaluation.confidence * 100:g} %"
    columns = ("", f"right, {level}", "tokens", "seconds")
    rows = _policies(evaluation) if "tokens" in evaluation.measures else _choices(evaluation)
    title = f"{evaluation.task}: {evaluation.problems} problems, {evaluation.samples} "
    title += "sample" if evaluation.samples == 1 else "samples"
    table = Table(title=title, title_justify="left", caption_justify="left")
    kept = list(rows)
    for name in columns[: len(kept[0])]:
        table.add_column(name, justify="left" if not name else "right")
    for row in kept:
        table.add_row(*row)
    table.caption = "\n".join(lines_of(evaluation))
    return table


def lines_of(evaluation: Evaluation) -> Iterator[str]:
    """Say what came of it, and what the gate makes of that."""
    yield evaluation.figures
    better = evaluation.measures.get("weighted_minus_majority")
    if better is not None:
        ends = f"{points(better.low)} to {points(better.high)}"
        yield f"weighted minus majority {points(better.mean)} points, {ends}"
    if (auc := evaluation.measures.get("auc")) is not None:
        free = evaluation.measures["auc_likeliest"]
        yield (
            f"AUC within problems {auc.mean:.3f}, {auc.low:.3f} to {auc.high:.3f}; "
            f"without it, by likelihood, {free.mean:.3f}"
        )
    word = "reached" if evaluation.lower >= evaluation.bar else "not reached"
    yield f"the bar, {points(evaluation.bar)} points, is {word}"


def _policies(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    for prefix, name in (("parent_", evaluation.parent), ("", evaluation.checkpoint)):
        told = {
            each: evaluation.measures[f"{prefix}{each}"]
            for each in ("accuracy", "tokens", "seconds")
        }
        costs = (f"{told['tokens'].mean:,.0f}", f"{told['seconds'].mean:.1f}")
        yield name, _percent(told["accuracy"]), *costs


def _choices(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    for name, title in WAYS.items():
        yield title, _percent(evaluation.measures[name])


def _percent(share: Measure) -> str:
    return f"{share.mean * 100:.1f} % ({share.low * 100:.1f} to {share.high * 100:.1f})"
