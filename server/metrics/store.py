"""What is counted of the store: how long it takes, whether it answers, which jobs it has."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from types import SimpleNamespace
from typing import ParamSpec, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.store.base import Store, StoreUnavailable

Part = TypeVar("Part")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_WAITING = frozenset({"blobs.write", "streams.read"})
"""These wait for a client, or for news: their length says nothing of the store."""
_GENERATORS = frozenset({"blobs.read"})


class StoreMetrics:
    """What is counted of the store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "forethought_store_seconds",
            "Length of a call of the store.",
            ("operation",),
            registry=registry,
            buckets=_SECONDS,
        )
        self._errors = Counter(
            "forethought_store_errors",
            "Calls that the store did not answer.",
            ("operation",),
            registry=registry,
        )
        self._errors.labels("check")  # a rate needs a value from before the first error
        self._up = Gauge(
            "forethought_store_up", "1: the last call was answered.", registry=registry
        )
        self._jobs = Counter(
            "forethought_jobs",
            "What became of jobs here: enqueued, claimed, finished, failed, handed_back.",
            ("queue", "event"),
            registry=registry,
        )
        self._running = Gauge(
            "forethought_jobs_running",
            "Jobs that this process holds a lease of.",
            ("queue",),
            registry=registry,
        )
        self._stored = Gauge(
            "forethought_jobs_stored",
            "Jobs in the store that wait, run, or are dead, whoever works on them.",
            ("queue", "state"),
            registry=registry,
        )
        self._queues: set[str] = set()

    def answered(self, operation: str, seconds: float) -> None:
        """Count a call that was answered."""
        self._up.set(1)
        if operation not in _WAITING:
            self._seconds.labels(operation).observe(seconds)

    def failed(self, operation: str) -> None:
        """Count a call that was not."""
        self._up.set(0)
        self._errors.labels(operation).inc()

    async def measure(self, store: Store) -> None:
        """Ask the store how it is and what waits there; the answers are what is shown."""
        with suppress(StoreUnavailable):  # which is counted
            await store.check()
            for queue in sorted(self._queues):
                depth = await store.jobs.depth(queue)
                self._stored.labels(queue, "waiting").set(depth.waiting)
                self._stored.labels(queue, "running").set(depth.running)
                self._stored.labels(queue, "dead").set(depth.dead)

    def job(self, queue: str, event: str, count: int = 1) -> None:
        """Count what happened to jobs."""
        self._queues.add(queue)
        self._jobs.labels(queue, event).inc(count)

    def running(self, queue: str, count: int) -> None:
        """Show how many jobs of a queue run here."""
        self._running.labels(queue).set(count)

    def timed(
        self, operation: str, call: Callable[Arguments, Awaitable[Result]]
    ) -> Callable[Arguments, Awaitable[Result]]:
        """Make a call count itself."""

        @wraps(call)
        async def counted(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            began = time.perf_counter()
            try:
                result = await call(*args, **kwargs)
            except StoreUnavailable:
                self.failed(operation)
                raise
            self.answered(operation, time.perf_counter() - began)
            return result

        return counted

    def watched(self, part: Part, protocol: type, name: str) -> Part:
        """Return a part of a store whose calls, those of its protocol, count themselves."""
        calls = {}
        for method in (each for each in vars(protocol) if not each.startswith("_")):
            operation, call = f"{name}.{method}", getattr(part, method)
            calls[method] = call if operation in _GENERATORS else self.timed(operation, call)
        return cast(Part, SimpleNamespace(**calls))
