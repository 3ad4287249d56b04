"""Background requests as they are kept: a record each, changed only where nobody else changed it.

The record is the truth: what a worker, a client that cancels and one that deletes do at the same
time is decided by whose change comes first. The job of the same name only sees to it that somebody
works on it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from server.errors import NotFound
from server.settings import BackgroundSettings
from server.store.base import Store
from server.store.jobs import Job
from server.store.records import Record
from verifiers.types import JSONObject

QUEUE = "background"


class Status(StrEnum):
    """How far a background request is."""

    QUEUED = "queued"
    """It waits for a worker, the first or another one."""
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset((Status.COMPLETED, Status.FAILED, Status.CANCELLED))
_DEAD = {
    "message": "the servers that worked on this request ended every time before it did",
    "type": "server_error",
    "param": None,
    "code": "attempts_used_up",
}


@dataclass(frozen=True, slots=True)
class Work:
    """A background request as it was read."""

    kind: str
    """Of the endpoint that took it, and of its record."""
    record: Record

    @property
    def id(self) -> str:
        """The name under which clients ask for it."""
        return self.record.id

    @property
    def value(self) -> JSONObject:
        """What is kept of it: see `Works.submit`."""
        return self.record.value

    @property
    def status(self) -> Status:
        """How far it is."""
        return Status(self.value["status"])

    @property
    def ended(self) -> bool:
        """Whether nothing more will be done about it."""
        return self.status in ENDED

    @property
    def turn(self) -> int:
        """How often a worker has begun; what is written in an earlier turn counts no more."""
        return int(self.value["turn"])


class Works:
    """Reads and changes background requests of owners. All raise StoreUnavailable."""

    def __init__(self, store: Store, settings: BackgroundSettings) -> None:
        self._store = store
        self._keep_s = settings.keep_s

    async def submit(
        self,
        kind: str,
        work_id: str,
        owner: str,
        request: JSONObject,
        about: JSONObject,
        events: Sequence[JSONObject] = (),
        strategy: str | None = None,
    ) -> Work:
        """Take a request on.

        Args:
            kind: the endpoint's.
            work_id: its name, which none had before.
            owner: who may see it.
            request: the body of the chat request that is to be answered.
            about: what the endpoint wants to know of it later.
            events: what its event stream begins with.
            strategy: the one that the URL names.
        """
        about = {"request": request, "strategy": strategy, "about": about}
        await self.keep(kind, work_id, owner, Status.QUEUED, about)
        await self.append(work_id, 0, [{"event": event} for event in events])
        await self._store.jobs.enqueue(QUEUE, work_id, [Job(work_id, {"kind": kind})])
        return await self.find(kind, work_id, owner)

    async def keep(
        self, kind: str, work_id: str, owner: str, status: Status, about: JSONObject
    ) -> None:
        """Write a record that nobody works on yet, or that is answered already."""
        now = time.time()
        value = {
            "status": status,
            "turn": 0,
            "created_at": int(now),
            "started_at": None,
            "ended_at": int(now) if status in ENDED else None,
            "expires_at": int(now + self._keep_s),
            "answer": None,
            "error": None,
            **about,
        }
        await self._store.records.add(kind, work_id, value, owner=owner, expires_s=self._keep_s)

    async def find(self, kind: str, work_id: str, owner: str, param: str | None = None) -> Work:
        """Read an owner's request; `param` is the field that names it. Raises NotFound."""
        record = await self._store.records.get(kind, work_id)
        if record is None or record.owner != owner:
            raise NotFound(f"there is no {kind} {work_id!r}", param=param)
        work = Work(kind, record)
        if work.ended:
            return work
        jobs = await self._store.jobs.counts(work_id)
        if jobs.waiting or jobs.running:
            return work
        await self.end(work, Status.FAILED, error=_DEAD)
        return await self.find(kind, work_id, owner, param)

    async def begin(self, kind: str, work_id: str) -> Work | None:
        """Begin a turn of one's own; None where it has ended, or is no more."""
        while True:
            record = await self._store.records.get(kind, work_id)
            if record is None or (work := Work(kind, record)).ended:
                return None
            turn = work.turn + 1
            started = work.value["started_at"] or int(time.time())
            changes = {"status": Status.IN_PROGRESS, "turn": turn, "started_at": started}
            if await self._change(work, changes) and (mine := await self.still(work, turn)):
                return mine

    async def still(self, work: Work, turn: int) -> Work | None:
        """Read it again; None where it was cancelled, deleted, or taken over by another turn."""
        record = await self._store.records.get(work.kind, work.id)
        if record is None:
            return None
        now = Work(work.kind, record)
        return now if now.turn == turn and now.status is not Status.CANCELLED else None

    async def hand_back(self, work: Work) -> None:
        """Let it wait for another worker, unless somebody else has changed it."""
        await self._change(work, {"status": Status.QUEUED})

    async def end(
        self,
        work: Work,
        status: Status,
        *,
        answer: JSONObject | None = None,
        error: JSONObject | None = None,
    ) -> bool:
        """End it, unless somebody else has changed it; say whether it was ended so."""
        changes = {
            "status": status,
            "ended_at": int(time.time()),
            "request": None,
            "answer": answer,
            "error": error,
        }
        if not await self._change(work, changes):
            return False
        await self.append(work.id, work.turn, [{"end": True}])
        await self.forget_job(work.id)
        return True

    async def cancel(self, work: Work) -> Work:
        """Cancel it, wherever it is worked on; one that has ended stays as it is."""
        while not work.ended and not await self.end(work, Status.CANCELLED):
            work = await self.find(work.kind, work.id, work.record.owner)
        return await self.find(work.kind, work.id, work.record.owner)

    async def delete(self, work: Work) -> None:
        """Delete it with its events; who works on it stops."""
        await self._store.records.delete(work.kind, work.id)
        await self.forget_job(work.id)
        await self._store.streams.delete(work.id)

    async def forget_job(self, work_id: str) -> None:
        """Let nobody begin it any more."""
        await self._store.jobs.drop(work_id)

    async def append(self, work_id: str, turn: int, items: Sequence[JSONObject]) -> None:
        """Add to its event stream."""
        values = [{"turn": turn, **item} for item in items]
        if values:
            await self._store.streams.append(work_id, values, expires_s=self._keep_s)

    async def _change(self, work: Work, changes: JSONObject) -> bool:
        value = {**work.value, **changes, "expires_at": int(time.time() + self._keep_s)}
        return await self._store.records.replace(
            work.kind, work.record, value, expires_s=self._keep_s
        )


def public(work: Work) -> dict[str, Any]:
    """Return the times of it that clients are told."""
    return {name: work.value[name] for name in ("created_at", "started_at", "ended_at")}
