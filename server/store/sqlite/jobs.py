"""Jobs in SQLite: a row each, in the order in which they were enqueued."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

from server.store.jobs import LEASE_OVER, Claim, Counts, Finished, Job
from server.store.sqlite.connection import Connection
from server.store.text import read_name, read_value, write_name, write_value
from verifiers.types import JSONObject

_CLAIM = "queue, batch, id, body, attempt, token"
_HOLDS = "batch = ? AND id = ? AND token = ? AND status = 'running'"
_OPEN = "status IN ('waiting', 'running')"


class SQLiteJobs:
    """Hands out jobs and keeps their results."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def enqueue(self, queue: str, group: str, jobs: Sequence[Job]) -> int:
        """Add jobs behind those of their group; return how many of them were new."""
        return await self._connection.write(_enqueue, queue, group, jobs)

    async def claim(
        self, queue: str, *, limit: int = 1, lease_s: float = 30.0, attempts: int = 3
    ) -> list[Claim]:
        """Take waiting jobs that are due, the oldest first, and those whose lease is over."""
        return await self._connection.write(_claim, queue, limit, lease_s, attempts)

    async def renew(self, claims: Sequence[Claim], lease_s: float = 30.0) -> list[Claim]:
        """Prolong leases; return the claims that still hold."""
        return await self._connection.write(_renew, claims, lease_s)

    async def finish(self, claim: Claim, result: JSONObject) -> bool:
        """Keep a job's result, if it has not ended; say whether it was kept."""
        return await self._connection.write(_finish, claim, result)

    async def give_back(
        self,
        claim: Claim,
        *,
        error: str | None = None,
        delay_s: float = 0.0,
        attempts: int = 3,
    ) -> None:
        """Make a job wait again, for another or after `delay_s`."""
        await self._connection.write(_give_back, claim, error, delay_s, attempts)

    async def cancel(self, group: str) -> int:
        """Cancel a group's waiting jobs; return how many there were."""
        return await self._connection.write(_cancel, group)

    async def counts(self, group: str) -> Counts:
        """Count a group's jobs by state."""
        return await self._connection.read(_counts, group)

    async def depth(self, queue: str) -> Counts:
        """Count a queue's jobs that wait, run, or are dead, of all groups; no others."""
        return await self._connection.read(_depth, queue)

    async def results(self, group: str, *, after: int = -1, limit: int = 1_000) -> list[Finished]:
        """List ended jobs behind the position `after`, in their order."""
        return await self._connection.read(_results, group, after, limit)

    async def dead(self, queue: str, *, limit: int = 100) -> list[Claim]:
        """List dead jobs, as they were last claimed."""
        return await self._connection.read(_dead, queue, limit)

    async def revive(self, group: str) -> int:
        """Make a group's dead jobs wait again, with all their attempts; return how many."""
        return await self._connection.write(_revive, group)

    async def drop(self, group: str) -> None:
        """Forget a group: its jobs, in whatever state, and their results."""
        await self._connection.write(_drop, group)


def _enqueue(db: sqlite3.Connection, queue: str, group: str, jobs: Sequence[Job]) -> int:
    batch = write_name(group)
    [(first,)] = db.execute(
        "SELECT coalesce(max(position) + 1, 0) FROM jobs WHERE batch = ?", (batch,)
    )
    position = first
    for job in jobs:
        added = db.execute(
            "INSERT INTO jobs (queue, batch, id, position, body) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (batch, id) DO NOTHING",
            (queue, batch, write_name(job.id), position, write_value(job.body)),
        )
        position += added.rowcount
    return int(position - first)


def _claim(
    db: sqlite3.Connection, queue: str, limit: int, lease_s: float, attempts: int
) -> list[Claim]:
    now = time.time()
    db.execute(
        "UPDATE jobs SET status = 'dead', result = ?"
        " WHERE queue = ? AND status = 'running' AND at <= ? AND attempt >= ?",
        (write_value({"error": LEASE_OVER}), queue, now, attempts),
    )
    db.execute(
        "UPDATE jobs SET status = 'waiting' WHERE queue = ? AND status = 'running' AND at <= ?",
        (queue, now),
    )
    rows = db.execute(
        "UPDATE jobs SET status = 'running', attempt = attempt + 1, token = ? || place, at = ?"
        f" WHERE place IN (SELECT place FROM jobs WHERE queue = ? AND status = 'waiting'"
        f" AND at <= ? ORDER BY place LIMIT ?) RETURNING place, {_CLAIM}",
        (f"{token_hex(8)}-", now + lease_s, queue, now, limit),
    ).fetchall()
    return [_as_claim(row) for _, *row in sorted(rows)]


def _renew(db: sqlite3.Connection, claims: Sequence[Claim], lease_s: float) -> list[Claim]:
    end = time.time() + lease_s
    return [
        claim
        for claim in claims
        if db.execute(f"UPDATE jobs SET at = ? WHERE {_HOLDS}", (end, *_held(claim))).rowcount
    ]


def _finish(db: sqlite3.Connection, claim: Claim, result: JSONObject) -> bool:
    kept = db.execute(
        f"UPDATE jobs SET status = 'done', result = ? WHERE batch = ? AND id = ? AND {_OPEN}",
        (write_value(result), write_name(claim.group), write_name(claim.job.id)),
    )
    return kept.rowcount == 1


def _give_back(
    db: sqlite3.Connection, claim: Claim, error: str | None, delay_s: float, attempts: int
) -> None:
    if error is not None and claim.attempt >= attempts:
        db.execute(
            f"UPDATE jobs SET status = 'dead', result = ? WHERE {_HOLDS}",
            (write_value({"error": error}), *_held(claim)),
        )
        return
    db.execute(
        f"UPDATE jobs SET status = 'waiting', attempt = attempt - ?, at = ? WHERE {_HOLDS}",
        (error is None, time.time() + delay_s, *_held(claim)),
    )


def _cancel(db: sqlite3.Connection, group: str) -> int:
    cancelled = db.execute(
        "UPDATE jobs SET status = 'cancelled'"
        " WHERE batch = ? AND (status = 'waiting' OR status = 'running' AND at <= ?)",
        (write_name(group), time.time()),
    )
    return cancelled.rowcount


def _counts(db: sqlite3.Connection, group: str) -> Counts:
    rows = db.execute(
        "SELECT status, count(*) FROM jobs WHERE batch = ? GROUP BY status", (write_name(group),)
    )
    return Counts(**dict(rows))


def _depth(db: sqlite3.Connection, queue: str) -> Counts:
    parts = [  # each has its index
        f"SELECT '{status}', count(*) FROM jobs WHERE queue = :queue AND status = '{status}'"
        for status in ("waiting", "running", "dead")
    ]
    return Counts(**dict(db.execute(" UNION ALL ".join(parts), {"queue": queue})))


def _results(db: sqlite3.Connection, group: str, after: int, limit: int) -> list[Finished]:
    rows = db.execute(
        f"SELECT position, id, status, result FROM jobs"
        f" WHERE batch = ? AND position > ? AND NOT {_OPEN} ORDER BY position LIMIT ?",
        (write_name(group), after, limit),
    )
    return [
        Finished(position, read_name(job_id), status, read_value(result))
        for position, job_id, status, result in rows
    ]


def _dead(db: sqlite3.Connection, queue: str, limit: int) -> list[Claim]:
    rows = db.execute(
        f"SELECT {_CLAIM} FROM jobs WHERE queue = ? AND status = 'dead' ORDER BY place LIMIT ?",
        (queue, limit),
    )
    return [_as_claim(row) for row in rows]


def _revive(db: sqlite3.Connection, group: str) -> int:
    revived = db.execute(
        "UPDATE jobs SET status = 'waiting', attempt = 0, at = 0, result = '{}'"
        " WHERE batch = ? AND status = 'dead'",
        (write_name(group),),
    )
    return revived.rowcount


def _drop(db: sqlite3.Connection, group: str) -> None:
    db.execute("DELETE FROM jobs WHERE batch = ?", (write_name(group),))


def _held(claim: Claim) -> tuple[str, str, str]:
    """Return what `_HOLDS` asks for."""
    return write_name(claim.group), write_name(claim.job.id), claim.token


def _as_claim(row: Sequence[Any]) -> Claim:
    queue, batch, job_id, body, attempt, token = row
    job = Job(read_name(job_id), read_value(body))
    return Claim(queue, read_name(batch), job, attempt, token)
