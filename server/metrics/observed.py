"""The store as requests and workers get it: every call of it counts itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

from server.metrics.store import StoreMetrics
from server.store.base import Store
from server.store.blobs import Blobs
from server.store.jobs import Claim, Job, Jobs
from server.store.limits import Limits
from server.store.records import Records
from server.store.streams import Streams
from verifiers.types import JSONObject


class ObservedStore:
    """A store, and the counts of what is asked of it."""

    def __init__(self, store: Store, metrics: StoreMetrics) -> None:
        self.records: Records = metrics.watched(store.records, Records, "records")
        self.blobs: Blobs = metrics.watched(store.blobs, Blobs, "blobs")
        self.streams: Streams = metrics.watched(store.streams, Streams, "streams")
        self.limits: Limits = metrics.watched(store.limits, Limits, "limits")
        self.jobs: Jobs = ObservedJobs(metrics.watched(store.jobs, Jobs, "jobs"), metrics)
        self._store = store
        self._check = metrics.timed("check", store.check)

    async def check(self) -> None:
        """Answer within two seconds. Raises StoreUnavailable."""
        await self._check()

    async def sweep(self) -> int:
        """Delete what has expired."""
        return await self._store.sweep()

    async def aclose(self) -> None:
        """Let go of it."""
        await self._store.aclose()


class ObservedJobs:
    """The jobs of a store, and which of them this process holds."""

    def __init__(self, jobs: Jobs, metrics: StoreMetrics) -> None:
        self._jobs = jobs
        self._metrics = metrics
        self._held: dict[str, tuple[str, float]] = {}
        """Queue and end of the lease, by the claim's token."""
        self.cancel = jobs.cancel
        self.counts = jobs.counts
        self.depth = jobs.depth
        self.results = jobs.results
        self.dead = jobs.dead
        self.revive = jobs.revive
        self.drop = jobs.drop

    async def enqueue(self, queue: str, group: str, jobs: Sequence[Job]) -> int:
        """Add jobs."""
        new = await self._jobs.enqueue(queue, group, jobs)
        self._metrics.job(queue, "enqueued", new)
        return new

    async def claim(
        self, queue: str, *, limit: int = 1, lease_s: float = 30.0, attempts: int = 3
    ) -> list[Claim]:
        """Take waiting jobs."""
        claims = await self._jobs.claim(queue, limit=limit, lease_s=lease_s, attempts=attempts)
        self._metrics.job(queue, "claimed", len(claims))
        self._hold(claims, lease_s)
        self._show(queue)
        return claims

    async def renew(self, claims: Sequence[Claim], lease_s: float = 30.0) -> list[Claim]:
        """Prolong leases."""
        holding = await self._jobs.renew(claims, lease_s)
        for claim in claims:
            self._held.pop(claim.token, None)
        self._hold(holding, lease_s)
        for queue in {claim.queue for claim in claims}:
            self._show(queue)
        return holding

    async def finish(self, claim: Claim, result: JSONObject) -> bool:
        """Keep a job's result."""
        kept = await self._jobs.finish(claim, result)
        if kept:
            self._metrics.job(claim.queue, "finished")
        self._let_go(claim)
        return kept

    async def give_back(
        self, claim: Claim, *, error: str | None = None, delay_s: float = 0.0, attempts: int = 3
    ) -> None:
        """Make a job wait again, or dead."""
        await self._jobs.give_back(claim, error=error, delay_s=delay_s, attempts=attempts)
        self._metrics.job(claim.queue, "handed_back" if error is None else "failed")
        self._let_go(claim)

    def _hold(self, claims: Sequence[Claim], lease_s: float) -> None:
        until = time.monotonic() + lease_s
        self._held |= {claim.token: (claim.queue, until) for claim in claims}

    def _let_go(self, claim: Claim) -> None:
        self._held.pop(claim.token, None)
        self._show(claim.queue)

    def _show(self, queue: str) -> None:
        """Count what is held; a lease that is over is none, whether or not anybody said so."""
        now = time.monotonic()
        self._held = {token: held for token, held in self._held.items() if held[1] > now}
        self._metrics.running(queue, sum(name == queue for name, _ in self._held.values()))
