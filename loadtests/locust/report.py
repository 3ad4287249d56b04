"""The report of a load test: plots as PNG, and one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from loadtests.locust.figures import PERCENTILES, Figures, buckets, figures
from loadtests.locust.plan import Plan, Row
from loadtests.plots import COLOURS

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)
_HEAD = (
    "run", "asked", "offered/s", "answered/s", "good/s", "TTFT p50", "p90", "p99", "latency p50",
    "p90", "p99", "tokens", "errors",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """A run and all its rows."""

    plan: Plan
    rows: Sequence[Row]


def write_report(runs: Sequence[Run], deadline_s: float, made: str, directory: Path) -> Path:
    """Write figures (JSON), plots (PNG) and the page (HTML); `made` says how. Returns the page."""
    directory.mkdir(parents=True, exist_ok=True)
    all_figures = [figures(run.plan, run.rows, deadline_s) for run in runs]
    plots = {"latency": _latencies(runs), "time": _over_time(runs, deadline_s)}
    pictures = []
    for name, figure in plots.items():
        content = _png(figure)
        (directory / f"load-{name}.png").write_bytes(content)
        data = base64.b64encode(content).decode()
        pictures.append(f'<img alt="{name}" src="data:image/png;base64,{data}">')
    kept = [
        {"plan": run.plan.model_dump(exclude={"key"}), **asdict(each)}
        for run, each in zip(runs, all_figures, strict=True)
    ]
    (directory / "load.json").write_text(json.dumps(kept, indent=1))
    page = directory / "load.html"
    note = (
        f"Good: answered within {deadline_s:g} s of the time at which the request was due, "
        f"in an open loop. Seconds. {made}"
    )
    page.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Load</title>"
        f"<style>{_STYLE}</style><h1>Load</h1>{_table(runs, all_figures)}"
        f"<p>{html.escape(note)}</p>{''.join(pictures)}</html>\n"
    )
    return page


def lines(runs: Sequence[Run], all_figures: Sequence[Figures]) -> list[list[str]]:
    """Return the table's cells."""
    made = []
    for run, each in zip(runs, all_figures, strict=True):
        nothing = ("–",) * len(PERCENTILES)
        errors = ", ".join(f"{name}: {count}" for name, count in each.errors.items()) or "none"
        made.append(
            [
                run.plan.name,
                str(each.asked),
                *(f"{value:.1f}" for value in (each.offered, each.throughput, each.goodput)),
                *([f"{value:.3f}" for value in each.first] or nothing),
                *([f"{value:.3f}" for value in each.latency] or nothing),
                f"{each.tokens:.0f}",
                errors,
            ]
        )
    return made


def _table(runs: Sequence[Run], all_figures: Sequence[Figures]) -> str:
    head = "".join(f"<th>{html.escape(cell)}" for cell in _HEAD)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in line)
        for line in lines(runs, all_figures)
    )
    return f"<table><tr>{head}{body}</table>"


def _latencies(runs: Sequence[Run]) -> Figure:
    """Draw how many answers had come after how long, and the first piece of streams."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    whole, first = figure.subplots(1, 2, sharey=True)
    for run, colour in zip(runs, COLOURS * len(runs), strict=False):
        good = [row for row in run.rows if row.error is None and row.kind != "batch"]
        firsts = [row.first - row.due for row in good if row.first is not None]
        for axis, values in ((whole, [row.ended - row.due for row in good]), (first, firsts)):
            if values:
                share = np.arange(1, len(values) + 1) / len(values)
                axis.step(np.sort(values), share, color=colour, label=run.plan.name)
    for axis, title in ((whole, "the whole answer"), (first, "the first piece")):
        axis.set_title(title, fontsize=10)
        axis.set_xscale("log")
        axis.set_xlabel("seconds since it was due")
        axis.grid(alpha=0.25)
    whole.set_ylabel("share of answers")
    whole.legend(frameon=False, fontsize=8)
    return figure


def _over_time(runs: Sequence[Run], deadline_s: float) -> Figure:
    """Draw what was offered and what was good, and the median latency, over each run."""
    figure = Figure(figsize=(10, 2.6 * len(runs)), layout="constrained")
    for axis, run in zip(figure.subplots(len(runs), 1, squeeze=False)[:, 0], runs, strict=True):
        parts = buckets(run.plan, run.rows, deadline_s)
        at = [each.at for each in parts]
        axis.plot(at, [each.offered for each in parts], color=COLOURS[0], label="offered/s")
        axis.plot(at, [each.good for each in parts], color=COLOURS[4], label="good/s")
        axis.set_title(run.plan.name, fontsize=10)
        axis.set_ylim(bottom=0)
        taken = axis.twinx()
        taken.plot(at, [each.latency for each in parts], color=COLOURS[3], ls=":", label="median s")
        taken.set_ylim(bottom=0)
        handles = [*axis.get_lines(), *taken.get_lines()]
        axis.legend(handles=handles, frameon=False, fontsize=8, loc="upper left")
        axis.grid(alpha=0.25)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None})
    return buffer.getvalue()
