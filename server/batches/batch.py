"""A batch as it is kept and told: OpenAI's object, and what only the server needs of it."""

from __future__ import annotations

import time
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict

from server.errors import NotFound
from server.store.base import Store
from server.store.jobs import Job
from server.store.records import Record

LINES = "batches"
"""The queue of lines; a group is a batch, and its id."""
STEPS = "batch-steps"
"""The queue of batches themselves: who claims one takes it a step on."""
_STEPS_OF = "steps:"
_KIND = "batch"

Status: TypeAlias = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
Ending: TypeAlias = Literal["completed", "expired", "cancelled"]
ENDED: frozenset[Status] = frozenset(("failed", "completed", "expired", "cancelled"))
_OURS = {"owner", "ending", "window_s", "keep_output_s", "failed_lines"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class BatchError(_Frozen):
    """What is wrong with an input file, and where."""

    code: str
    line: int | None = None
    message: str
    param: str | None = None


class BatchErrors(_Frozen):
    """All that is."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(_Frozen):
    """How many lines there are, were answered, and failed."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class InputDetails(_Frozen):
    """Of the tokens read."""

    cached_tokens: int = 0


class OutputDetails(_Frozen):
    """Of the tokens written."""

    reasoning_tokens: int = 0


class BatchUsage(_Frozen):
    """What all lines together cost, in tokens."""

    input_tokens: int = 0
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int = 0
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int = 0


class Batch(_Frozen):
    """A batch. Times are Unix times in seconds."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = None
    """Where all lines name the same."""
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: BatchUsage | None = None
    metadata: dict[str, str] | None = None

    owner: str
    ending: Ending | None = None
    """What it will be once no line runs any more."""
    window_s: int
    keep_output_s: float
    failed_lines: int = 0
    """Lines that were answered with an error, as far as was noted while it ran."""

    def told(self) -> dict[str, Any]:
        """Return what a client is told."""
        return self.model_dump(mode="json", exclude=_OURS)


class Found(NamedTuple):
    """A batch, and the record that it was read from."""

    batch: Batch
    record: Record


class Batches:
    """Reads and writes batches. All raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, batch: Batch) -> None:
        """Keep a new batch, for somebody to take on; in this order, none is left lying about."""
        await self.take_on(batch.id)
        value = batch.model_dump(mode="json")
        await self._store.records.add(_KIND, batch.id, value, owner=batch.owner)

    async def take_on(self, batch_id: str) -> None:
        """Have somebody look after a batch from now on."""
        job = Job(str(time.time_ns()), {"since": time.time()})
        await self._store.jobs.enqueue(STEPS, steps_of(batch_id), [job])

    async def get(self, batch_id: str) -> Found | None:
        """Read a batch; None where there is none."""
        record = await self._store.records.get(_KIND, batch_id)
        return None if record is None else _found(record)

    async def owned(self, batch_id: str, owner: str) -> Found:
        """Read a batch of this owner. Raises NotFound."""
        found = await self.get(batch_id)
        if found is None or found.batch.owner != owner:
            raise NotFound(f"there is no batch {batch_id!r}", param="batch_id")
        return found

    async def page(self, owner: str | None, after: str | None, limit: int) -> list[Batch]:
        """List an owner's batches, None: everybody's, the newest first, behind `after`."""
        records = await self._store.records.page(_KIND, owner=owner, after=after, limit=limit)
        return [_found(record).batch for record in records]

    async def change(self, found: Found, *, expires_s: float | None = None, **to: Any) -> bool:
        """Change fields of a batch that nobody has changed since it was read; say whether so."""
        value = found.batch.model_copy(update=to).model_dump(mode="json")
        return await self._store.records.replace(_KIND, found.record, value, expires_s=expires_s)


def steps_of(batch_id: str) -> str:
    """Return the group of a batch in the queue of batches."""
    return f"{_STEPS_OF}{batch_id}"


def batch_of(group: str) -> str:
    """Return the batch whose steps the group is."""
    return group.removeprefix(_STEPS_OF)


def _found(record: Record) -> Found:
    return Found(Batch.model_validate(record.value), record)
