"""A crew works on a queue: it claims jobs as there is room, keeps their leases, tells their ends.

A job whose lease is lost is another's: its work stops. When the crew stops, it hands back what it
holds, and the attempt does not count. While the store is away, work goes on and its result waits.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from server.store.base import StoreUnavailable
from server.store.jobs import Claim, Jobs
from verifiers.types import JSONObject

MAX_PAUSE_S = 300.0
"""Between two attempts, at most."""
_PACE_S = 0.01
"""Between two claims, so that what was claimed is seen to take up room."""

_log = logging.getLogger("forethought.jobs")


@dataclass(frozen=True, slots=True)
class Done:
    """The job has a result."""

    result: JSONObject


@dataclass(frozen=True, slots=True)
class Again:
    """The job waits for another attempt; without an error, this one does not count."""

    delay_s: float
    error: str | None = None


Verdict: TypeAlias = Done | Again
_Key: TypeAlias = tuple[str, str, str]


class Held(NamedTuple):
    """A claim, and the work on it."""

    claim: Claim
    work: asyncio.Task[Verdict]


@dataclass(frozen=True, slots=True)
class Terms:
    """How a queue is worked on."""

    queue: str
    lease_s: float
    attempts: int
    poll_s: float
    """Between two looks at a queue that had nothing."""
    backoff_s: float
    """Before the second attempt; it doubles with each, up to MAX_PAUSE_S."""

    def pause(self, attempt: int) -> float:
        """Return how long to wait after this attempt, in seconds; drawn, so that no two meet."""
        return min(MAX_PAUSE_S, self.backoff_s * 2.0 ** min(attempt - 1, 16)) * random.uniform(
            0.5, 1
        )


class Crew:
    """Works on one queue in this process."""

    def __init__(
        self,
        jobs: Jobs,
        terms: Terms,
        work: Callable[[Claim], Coroutine[Any, Any, Verdict]],
        room: Callable[[int], int],
    ) -> None:
        """`room` says how many more jobs fit where so many are held; `work` does one."""
        self._jobs, self._terms, self._work, self._room = jobs, terms, work, room
        self._held: dict[_Key, Held] = {}
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Work until this is cancelled; then hand back what is held."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            while True:
                self._ended.clear()
                room = self._room(len(self._held))
                claims = await self._take(room) if room > 0 else []
                for claim in claims:
                    group.create_task(self._hold(claim))
                if claims:
                    await asyncio.sleep(_PACE_S)
                elif room > 0:
                    await asyncio.sleep(self._terms.poll_s)
                else:
                    await self._until_one_ends()

    async def _until_one_ends(self) -> None:
        try:
            async with asyncio.timeout(self._terms.poll_s):
                await self._ended.wait()
        except TimeoutError:
            return

    async def _take(self, limit: int) -> list[Claim]:
        """Claim; what is claimed in the moment of the end is handed back at once."""
        claiming = asyncio.create_task(self._claim(limit))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            for claim in await claiming:
                await self._hand_back(claim)
            raise

    async def _claim(self, limit: int) -> list[Claim]:
        terms = self._terms
        try:
            return await self._jobs.claim(
                terms.queue, limit=limit, lease_s=terms.lease_s, attempts=terms.attempts
            )
        except StoreUnavailable:
            return []

    async def _renew(self) -> None:
        """Prolong what is held, and stop the work on what is not ours any more."""
        while True:
            await asyncio.sleep(self._terms.lease_s / 3)
            asked = list(self._held.values())
            if not asked:
                continue
            try:
                kept = await self._jobs.renew([each.claim for each in asked], self._terms.lease_s)
            except StoreUnavailable:
                continue
            ours = set(map(_key, kept))
            for each in asked:
                if _key(each.claim) not in ours:
                    each.work.cancel()

    async def _hold(self, claim: Claim) -> None:
        """Do one job; its work runs in a task of its own, whose end is looked at, however it is."""
        work = asyncio.create_task(self._work(claim))
        self._held[_key(claim)] = Held(claim, work)
        try:
            await asyncio.wait((work,))
            if not work.cancelled():
                await self._tell(claim, self._verdict(claim, work))
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait((work,))
            await self._hand_back(claim)
            raise
        finally:
            del self._held[_key(claim)]
            self._ended.set()

    def _verdict(self, claim: Claim, work: asyncio.Task[Verdict]) -> Verdict:
        error = work.exception()
        if error is None:
            return work.result()
        if isinstance(error, StoreUnavailable):
            return Again(self._terms.poll_s)
        _log.error("a job of %s failed", claim.queue, exc_info=error)
        return Again(self._terms.pause(claim.attempt), "the server failed")

    async def _tell(self, claim: Claim, verdict: Verdict) -> None:
        """Keep the result, whenever the store takes it: what was worked is not to be lost."""
        while True:
            try:
                if isinstance(verdict, Done):
                    await self._jobs.finish(claim, verdict.result)
                else:
                    await self._jobs.give_back(
                        claim,
                        error=verdict.error,
                        delay_s=verdict.delay_s,
                        attempts=self._terms.attempts,
                    )
                return
            except StoreUnavailable:
                await asyncio.sleep(self._terms.poll_s)

    async def _hand_back(self, claim: Claim) -> None:
        try:
            await self._jobs.give_back(claim, attempts=self._terms.attempts)
        except StoreUnavailable:
            _log.warning("a job of %s waits for the end of its lease", claim.queue)


def _key(claim: Claim) -> _Key:
    """Name a claim: those that were made together may share their token."""
    return claim.group, claim.job.id, claim.token
