"""Plots of results: PNG, readable on paper and for those who do not tell colours apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.figure import Figure

from loadtests.inference import Interval

Panel: TypeAlias = Mapping[str, Mapping[int, Interval]]
"""Curves by name: their points by x."""

# Okabe and Ito, Color Universal Design, 2008.
COLOURS = ("#000000", "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#D55E00", "#CC79A7")
_MARKS = ("o", "s", "D", "^", "v", "P", "X")


def plot_curves(panels: Mapping[str, Panel], path: Path, *, x: str, y: str) -> None:
    """Draw panels side by side on one scale: curves over log x, with bands for their intervals."""
    figure = Figure(figsize=(5.2 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        _draw(axis, panel)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(x)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(y)
    axes[0].set_ylim(bottom=0)
    names, labels = axes[0].get_legend_handles_labels()
    figure.legend(names, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw(axis: Any, panel: Panel) -> None:
    for (name, points), colour, mark in zip(panel.items(), COLOURS, _MARKS, strict=False):
        xs = list(points)
        axis.plot(xs, [points[k].mean for k in xs], color=colour, marker=mark, ms=4, label=name)
        low, high = [points[k].low for k in xs], [points[k].high for k in xs]
        axis.fill_between(xs, low, high, color=colour, alpha=0.08, linewidth=0)
    ticks = sorted({k for points in panel.values() for k in points})
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(k) for k in ticks])
