"""What is watched while a server soaks: memory, tasks, connections, samples; and how they grow."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np

from loadtests.inference import Interval

_METRIC = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_RESAMPLES = 2_000
_BLOCK = 10
MIB = 2**20


class Reading(NamedTuple):
    """How a server is at one moment."""

    at: float
    """Seconds of the soak."""
    memory: float
    """MiB that are resident."""
    sockets: int
    """Open connections, to clients and upstream, and what listens."""
    files: int
    """Open file descriptors, sockets included."""
    tasks: int
    """Of the event loop."""
    running: int
    """Samples that generate."""
    queued: int
    """Samples that wait."""
    tokens: int
    """Generated, by the server's own count."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Reads one server, which is a process of this machine."""

    url: str
    pid: int
    began: float

    async def read(self, http: httpx.AsyncClient) -> Reading:
        """Read it now."""
        text = (await http.get(f"{self.url}/metrics")).raise_for_status().text
        metrics = [(name, labels, float(value)) for name, labels, value in _METRIC.findall(text)]
        sockets, files = _descriptors(self.pid)
        return Reading(
            time.monotonic() - self.began,
            _resident(self.pid) / MIB,
            sockets,
            files,
            int(_total(metrics, "forethought_tasks")),
            int(_total(metrics, "forethought_samples_running")),
            int(_total(metrics, "forethought_samples_queued")),
            int(_total(metrics, "forethought_tokens_total", 'kind="completion"')),
        )

    async def settle(self, http: httpx.AsyncClient, patience: float = 20.0) -> Reading:
        """Wait until nothing runs any more, and return how it is then; late, as it is."""
        until, last = time.monotonic() + patience, await self.read(http)
        while time.monotonic() < until:
            await asyncio.sleep(1)
            now = await self.read(http)
            calm = now.running == now.queued == 0
            if calm and (now.tasks, now.sockets) == (last.tasks, last.sockets):
                return now
            last = now
        return last


def growth(readings: Sequence[Reading], seed: int = 0) -> Interval:
    """Return the slope of memory in MiB per hour, with a 95 % interval.

    Least squares; the interval is of a bootstrap of the residuals in blocks, as readings that
    follow one another are alike.
    """
    times = np.array([each.at for each in readings]) / 3600
    memory = np.array([each.memory for each in readings])
    slope, level = np.polyfit(times, memory, 1)
    residuals = memory - (slope * times + level)
    chance, size = np.random.default_rng(seed), len(times)
    block = min(_BLOCK, size)
    slopes = []
    for _ in range(_RESAMPLES):
        starts = chance.integers(0, size - block + 1, -(-size // block))
        places = (starts[:, None] + np.arange(block)).ravel()[:size]
        slopes.append(np.polyfit(times, slope * times + level + residuals[places], 1)[0])
    low, high = np.quantile(slopes, (0.025, 0.975))
    return Interval(float(slope), float(low), float(high))


def _total(metrics: Iterable[tuple[str, str, float]], name: str, label: str = "") -> float:
    return sum(value for each, labels, value in metrics if each == name and label in labels)


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _descriptors(pid: int) -> tuple[int, int]:
    kinds = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kinds.append(os.readlink(each))
        except FileNotFoundError:  # closed meanwhile
            continue
    return sum(kind.startswith("socket:") for kind in kinds), len(kinds)
