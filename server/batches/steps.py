"""The life of a batch, taken on by one replica at a time, a step at a time.

    validating ─► in_progress ─► finalizing ─► completed
        │              │              └──────► expired      (its window ended)
        └─► failed     └─► cancelling ───────► cancelled

Each step can be done again: whoever is killed in one is followed by another, who does it anew.
"""

from __future__ import annotations

import time

from server.batches.batch import (
    ENDED,
    LINES,
    BatchError,
    BatchErrors,
    Batches,
    Found,
    RequestCounts,
    batch_of,
    steps_of,
)
from server.batches.input import InputCheck, parse_line, raw_lines
from server.batches.kept import Files
from server.batches.line_work import failed_of
from server.batches.output import write_results
from server.crew import Again, Done, Verdict
from server.state import State
from server.store.jobs import Claim, Counts, Job

_ROOM = 8
"""Batches that a replica looks after at once."""
_SLICE = 100
"""Lines enqueued at once."""
_SETTLED_S = 60.0
"""A batch that is not there after so long will not come."""


class Steps:
    """Takes batches on: the work of the queue of batches."""

    def __init__(self, state: State) -> None:
        self._state, self._store = state, state.store
        self._batches, self._files = Batches(state.store), Files(state.store)
        self._poll_s = state.settings.batches.poll_s
        self._keep_s = state.settings.files.keep_s

    def room(self, held: int) -> int:
        """Say how many batches more may be looked after here."""
        return 0 if self._state.draining.begun else _ROOM - held

    async def __call__(self, claim: Claim) -> Verdict:
        """Take a batch as far as it goes now."""
        batch_id, pause_s = batch_of(claim.group), 0.0
        while not pause_s:
            found = await self._batches.get(batch_id)
            if found is None and time.time() - claim.job.body["since"] < _SETTLED_S:
                return Again(self._poll_s)
            if found is None or found.batch.status in ENDED:
                await self._forget(batch_id)
                return Done({})
            if found.batch.status == "validating":
                await self._begin(found)
            else:
                pause_s = await self._pursue(found)
        return Again(pause_s)

    async def _begin(self, found: Found) -> None:
        """Check the whole input, then enqueue it."""
        batch, now = found.batch, int(time.time())
        check = InputCheck(batch.endpoint, self._state)
        try:
            await check.read(self._files.read(batch.input_file_id))
            if not check.errors:
                await self._enqueue(found, check.most_bytes)
        except KeyError:
            gone = "the input file was deleted"
            check.errors[:] = [BatchError(code="file_not_found", message=gone)]
        if check.errors:
            told = BatchErrors(data=check.errors)
            await self._batches.change(
                found, expires_s=self._keep_s, status="failed", failed_at=now, errors=told
            )
            return
        await self._batches.change(
            found,
            status="in_progress",
            in_progress_at=now,
            model=check.model,
            request_counts=RequestCounts(total=check.count),
        )

    async def _enqueue(self, found: Found, most_bytes: int) -> None:
        batch = found.batch
        jobs: list[Job] = []
        async for raw in raw_lines(self._files.read(batch.input_file_id), most_bytes):
            line = parse_line(raw)
            body = {"owner": batch.owner, "url": line.url, "body": line.body}
            jobs.append(Job(line.custom_id, body))
            if len(jobs) == _SLICE:
                await self._store.jobs.enqueue(LINES, batch.id, jobs)
                jobs.clear()
        if jobs:
            await self._store.jobs.enqueue(LINES, batch.id, jobs)

    async def _pursue(self, found: Found) -> float:
        """See how far the lines are; return the seconds until the next look, 0: at once."""
        batch, now = found.batch, int(time.time())
        if batch.ending is None and now >= batch.expires_at:
            await self._batches.change(
                found, status="finalizing", ending="expired", finalizing_at=now
            )
            return 0.0
        if batch.ending in ("expired", "cancelled"):
            await self._store.jobs.cancel(batch.id)
        counts = await self._store.jobs.counts(batch.id)
        if counts.waiting or counts.running:
            await self._note(found, counts)
            return self._poll_s
        if batch.ending is None:
            await self._batches.change(
                found, status="finalizing", ending="completed", finalizing_at=now
            )
            return 0.0
        return await self._finish(found, counts)

    async def _note(self, found: Found, counts: Counts) -> None:
        """Tell how many lines were answered; exactly, once all have ended."""
        batch = found.batch
        events = await self._store.streams.read(failed_of(batch.id), after=batch.failed_lines)
        failed = events[-1].number if events else batch.failed_lines
        told = RequestCounts(
            total=counts.total,
            completed=max(0, counts.done - failed),
            failed=failed + counts.dead,
        )
        if told != batch.request_counts:
            await self._batches.change(found, request_counts=told, failed_lines=failed)

    async def _finish(self, found: Found, counts: Counts) -> float:
        """Write the files, then say so. Dead lines can be revived for as long as files are kept."""
        batch = found.batch
        written = await write_results(self._store, batch)
        ended = await self._batches.change(
            found,
            expires_s=self._keep_s,
            status=batch.ending,
            **{f"{batch.ending}_at": int(time.time())},
            output_file_id=written.output_file_id,
            error_file_id=written.error_file_id,
            request_counts=written.tally.counts,
            usage=written.tally.batch_usage,
        )
        return self._keep_s if ended and counts.dead else 0.0

    async def _forget(self, batch_id: str) -> None:
        """Drop the lines: the files have what became of them."""
        await self._store.jobs.drop(batch_id)
        await self._store.streams.delete(failed_of(batch_id))
        await self._store.jobs.drop(steps_of(batch_id))
