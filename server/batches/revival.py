"""Lines that failed in all their attempts: listed, and worked anew when an operator says so."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from server.batches.batch import ENDED, LINES, Batches, Status
from server.batches.output import results_of
from server.store.base import Store

_MOST = 100_000


class DeadLine(NamedTuple):
    """A line that is not worked any more."""

    batch_id: str
    custom_id: str
    attempts: int
    error: str


class Revived(NamedTuple):
    """What became of a batch's dead lines."""

    lines: int
    status: Status


class NotRevived(Exception):
    """The batch is not there, or just being ended."""


async def dead_lines(store: Store, batch_id: str | None = None) -> AsyncIterator[DeadLine]:
    """List dead lines, batch by batch; of one batch, where it is named."""
    attempts: dict[str, dict[str, int]] = {}
    for claim in await store.jobs.dead(LINES, limit=_MOST):
        attempts.setdefault(claim.group, {})[claim.job.id] = claim.attempt
    for group in [batch_id] if batch_id else list(attempts):
        async for each in results_of(store, group):
            if each.status == "dead":
                made = attempts.get(group, {}).get(each.id, 0)
                yield DeadLine(group, each.id, made, each.result["error"])


async def revive(store: Store, batch_id: str) -> Revived:
    """Have a batch's dead lines worked again, for as long as its window was from the start.

    Of one that has ended, the files are written anew when it ends again.

    Raises:
        NotRevived: there is no such batch, or its files are being written.
    """
    batches = Batches(store)
    found = await batches.get(batch_id)
    if found is None:
        raise NotRevived(f"there is no batch {batch_id!r}")
    if found.batch.status in ("finalizing", "cancelling"):
        raise NotRevived(f"{batch_id} is {found.batch.status}: try again when it has ended")
    counts = await store.jobs.counts(batch_id)
    if counts.dead and found.batch.status in ENDED:
        reopened = await batches.change(
            found,
            status="in_progress",
            ending=None,
            expires_at=int(time.time()) + found.batch.window_s,
            completed_at=None,
            expired_at=None,
            cancelled_at=None,
        )
        if not reopened:
            raise NotRevived(f"{batch_id} has just changed: try again")
    lines = await store.jobs.revive(batch_id)
    await batches.take_on(batch_id)
    found = await batches.get(batch_id)
    assert found is not None, "it was there"
    return Revived(lines, found.batch.status)
