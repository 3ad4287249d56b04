"""Jobs: work that is taken on by whoever is free, done at least once, and answered exactly once.

A job is waiting, running (claimed, for as long as its lease is renewed), or ended: done, dead or
cancelled. Once a lease is over, the next `claim` from its queue makes the job wait again, for
another attempt; until then whoever holds it may still renew it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from verifiers.types import JSONObject

LEASE_OVER = "whoever had claimed it did not end it, in all of its attempts"
"""Why a job is dead whose last permitted attempt ended with its lease."""


@dataclass(frozen=True, slots=True)
class Job:
    """Work: its id within its group, and what is to be done."""

    id: str
    body: JSONObject


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a worker holds; the token makes this claim of it known from all others."""

    queue: str
    group: str
    job: Job
    attempt: int
    """1 for the first."""
    token: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that has ended."""

    position: int
    """In its group, from 0: the order in which it was enqueued."""
    id: str
    status: str
    """done, dead or cancelled."""
    result: JSONObject
    """Of a dead one: {"error": why}; of a cancelled one: {}."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs of a group are in which state."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    dead: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All that were enqueued."""
        return self.waiting + self.running + self.done + self.dead + self.cancelled

    @property
    def ended(self) -> int:
        """Those that nothing more will be done about."""
        return self.done + self.dead + self.cancelled


class Jobs(Protocol):
    """Hands out jobs and keeps their results; each call is atomic. All raise StoreUnavailable."""

    async def enqueue(self, queue: str, group: str, jobs: Sequence[Job]) -> int:
        """Add jobs behind those of their group; return how many of them were new.

        An id that the group has already stays as it is: sending the same jobs again is harmless,
        and after StoreUnavailable, which may leave some of many jobs behind, it is what to do.
        """

    async def claim(
        self, queue: str, *, limit: int = 1, lease_s: float = 30.0, attempts: int = 3
    ) -> list[Claim]:
        """Take waiting jobs that are due, the oldest first, and those whose lease is over.

        One whose last permitted attempt ended with its lease becomes dead instead.
        """

    async def renew(self, claims: Sequence[Claim], lease_s: float = 30.0) -> list[Claim]:
        """Prolong leases; return the claims that still hold: the work of others should stop."""

    async def finish(self, claim: Claim, result: JSONObject) -> bool:
        """Keep a job's result, if it has not ended; say whether it was kept.

        The claim need not hold any more: the first result counts, whoever brings it.
        """

    async def give_back(
        self,
        claim: Claim,
        *,
        error: str | None = None,
        delay_s: float = 0.0,
        attempts: int = 3,
    ) -> None:
        """Make a job wait again, for another or after `delay_s`.

        Without `error` the attempt does not count: the worker stops. With it, and where that was
        the last permitted attempt, the job is dead. A claim that no longer holds changes nothing.
        """

    async def cancel(self, group: str) -> int:
        """Cancel a group's waiting jobs; return how many there were.

        Running ones go on, but for those whose lease is over: nobody takes them again.
        """

    async def counts(self, group: str) -> Counts:
        """Count a group's jobs by state; one whose lease is over runs until the next `claim`."""

    async def depth(self, queue: str) -> Counts:
        """Count a queue's jobs that wait, run, or are dead, of all groups; no others."""

    async def results(self, group: str, *, after: int = -1, limit: int = 1_000) -> list[Finished]:
        """List ended jobs behind the position `after`, in their order."""

    async def dead(self, queue: str, *, limit: int = 100) -> list[Claim]:
        """List dead jobs, as they were last claimed; their group's `results` have the errors."""

    async def revive(self, group: str) -> int:
        """Make a group's dead jobs wait again, with all their attempts; return how many."""

    async def drop(self, group: str) -> None:
        """Forget a group: its jobs, in whatever state, and their results."""
