"""A picture of a soak: memory, what is open, and how long answers took, over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from loadtests.inference import Interval
from loadtests.plots import COLOURS
from loadtests.soak_clients import Notes
from loadtests.soak_watch import Reading


def plot(readings: Sequence[Reading], notes: Notes, slope: Interval, path: Path) -> None:
    """Draw three panels above one another."""
    minutes = [each.at / 60 for each in readings]
    figure = Figure(figsize=(8, 8), layout="constrained")
    memory, opened, taken = figure.subplots(3, 1)
    memory.plot(minutes, [each.memory for each in readings], color=COLOURS[1])
    memory.set_ylabel("resident MiB")
    memory.set_ylim(bottom=0)
    memory.set_title(
        f"{slope.mean:+.2f} MiB per hour ({slope.low:+.2f} to {slope.high:+.2f})", fontsize=10
    )
    for name, colour in zip(("sockets", "tasks", "running"), COLOURS, strict=False):
        opened.plot(minutes, [getattr(each, name) for each in readings], color=colour, label=name)
    opened.legend(frameon=False, fontsize=9)
    began = min((at for at, _ in notes.seconds), default=0.0)
    start = minutes[0] if minutes else 0.0
    ends = [start + (at - began) / 60 for at, _ in notes.seconds]
    taken.scatter(ends, [seconds for _, seconds in notes.seconds], s=2, color=COLOURS[4])
    taken.set_ylabel("seconds of each request")
    taken.set_xlabel("minutes")
    for axis in (memory, opened, taken):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
