"""What the rows of a run come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loadtests.locust.plan import Plan, Row

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Figures:
    """A run in figures. Latencies are in seconds, from the time at which a request was due."""

    asked: int
    offered: float
    """Requests per second that were due."""
    throughput: float
    """Answers per second."""
    goodput: float
    """Of them, those within the deadline."""
    errors: Mapping[str, int]
    latency: tuple[float, ...]
    """At the percentiles 50, 90 and 99."""
    first: tuple[float, ...]
    """Time to the first piece of the answer, of streams; empty: there were none."""
    tokens: float
    """Per answer, all samples together."""
    late: float
    """At percentile 99: seconds that the load generator itself was late; it must be little."""
    batches: int
    """That were worked to their end."""


def figures(plan: Plan, rows: Sequence[Row], deadline_s: float) -> Figures:
    """Sum a run up."""
    asked = [row for row in rows if row.kind != "batch"]
    good = [row for row in asked if row.error is None]
    taken = [row.ended - row.due for row in good]
    first = [row.first - row.due for row in good if row.first is not None]
    seconds = max([plan.seconds, *(row.ended for row in asked)])
    return Figures(
        asked=len(asked),
        offered=len(asked) / plan.seconds,
        throughput=len(good) / seconds,
        goodput=sum(each <= deadline_s for each in taken) / seconds,
        errors=dict(Counter(row.error for row in rows if row.error is not None)),
        latency=_percentiles(taken),
        first=_percentiles(first),
        tokens=float(np.mean([row.tokens for row in good])) if good else 0.0,
        late=float(np.quantile([row.sent - row.due for row in asked], 0.99)) if asked else 0.0,
        batches=sum(row.kind == "batch" and row.error is None for row in rows),
    )


@dataclass(frozen=True, slots=True)
class Bucket:
    """Some seconds of a run, by when requests were due."""

    at: float
    offered: float
    good: float
    """Requests per second of those that were answered within the deadline."""
    latency: float
    """The median; NaN where nothing was answered."""


def buckets(plan: Plan, rows: Sequence[Row], deadline_s: float, count: int = 20) -> list[Bucket]:
    """Cut a run into equal parts."""
    width, asked = plan.seconds / count, [row for row in rows if row.kind != "batch"]
    made = []
    for place in range(count):
        due = [row for row in asked if place * width <= row.due < (place + 1) * width]
        taken = [row.ended - row.due for row in due if row.error is None]
        good = sum(each <= deadline_s for each in taken)
        median = float(np.median(taken)) if taken else float("nan")
        made.append(Bucket((place + 0.5) * width, len(due) / width, good / width, median))
    return made


def _percentiles(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(each) for each in np.percentile(values, PERCENTILES)) if values else ()
