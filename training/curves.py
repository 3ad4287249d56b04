"""The curves of a run: what it logged, step by step, as one PNG."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loadtests.plots import COLOURS

Curve: TypeAlias = Mapping[int, float]
"""Values by step."""

PANELS = {
    "reward": re.compile(r"reward|rewards/(chosen|rejected|margins)|rewards/.+/mean"),
    "loss": re.compile(r"(?!train_)(.+[/_])?loss"),
    "KL": re.compile(r"(.+[/_])?kl"),
    "length": re.compile(r"(.+/)?(mean_)?length"),
    "accuracy": re.compile(r"(.+[/_])?accurac(y|ies)"),
}
"""What is drawn together, by the names under which methods and TRL log it, as a whole name."""
_COLUMNS = 2
_WIDTH, _HEIGHT = 5.2, 3.1
"""Of a panel, in inches."""
_SPAN = 15
"""The smoothed line goes by so much of the run at a time: a 15th."""


def read_log(path: Path) -> dict[str, dict[int, float]]:
    """Return every logged value by name and step; of equal steps the last line counts."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            step = row.pop("step")
            for name, value in row.items():
                found[name][step] = value
    return {name: dict(sorted(curve.items())) for name, curve in found.items()}


def panels(log: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Sort what was logged into the panels, without steps whose value is no number."""
    chosen: dict[str, dict[str, Curve]] = {}
    for title, names in PANELS.items():
        curves: dict[str, Curve] = {
            name: {step: value for step, value in curve.items() if math.isfinite(value)}
            for name, curve in log.items()
            if names.fullmatch(name)
        }
        if kept := {name: curve for name, curve in curves.items() if curve}:
            chosen[title] = kept
    return chosen


def plot_log(log: Mapping[str, Curve], path: Path) -> bool:
    """Draw the panels that have something to show; False: none has."""
    chosen = panels(log)
    if not chosen:
        return False
    columns = min(_COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (title, curves) in zip(axes, chosen.items(), strict=False):
        _draw(axis, title, curves)
    for axis in axes[len(chosen) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return True


def _draw(axis: Any, title: str, curves: Mapping[str, Curve]) -> None:
    """Draw the points, and over them the smoothed line."""
    for (name, curve), colour in zip(curves.items(), COLOURS[1:] + COLOURS[:1], strict=False):
        steps, values = list(curve), list(curve.values())
        axis.plot(steps, values, ".", color=colour, alpha=0.3, ms=4, mew=0)
        axis.plot(steps, smoothed(values), color=colour, lw=1.8, label=name)
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel("step", fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axis.legend(frameon=False, fontsize=8)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return at each value that of the line through it and its neighbours, by least squares.

    Inside, it is their mean; at the ends, where all are on one side, it does not lag behind.
    """
    reach = len(values) // (2 * _SPAN)
    if not reach:
        return list(values)
    line = []
    for place in range(len(values)):
        near = np.arange(max(0, place - reach), min(len(values), place + reach + 1))
        window = values[near[0] : near[-1] + 1]
        line.append(float(np.polyfit(near - place, window, 1)[1]))
    return line
