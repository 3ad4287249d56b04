"""Traces in the store: a record of what each is listed by, and a blob with its texts, packed.

So every replica finds every trace. Lists are made by looking through the records of an owner.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from server.store.base import Store
from server.store.records import Record
from server.traces.base import Filter, Summary, agreement_of
from strategies.events import Event
from verifiers.types import JSONObject

_KIND = "trace"
_PAGE = 500
"""Records looked through at once."""
_SWEEPS_S = 25.0
"""For so long after a sweep of one replica the others need not."""


class _Packed(NamedTuple):
    """A trace's texts."""

    data: bytes
    size: int
    """In bytes, before they were packed."""


class SharedTraces:
    """Traces that replicas share. What is gone from the records is no trace any more."""

    def __init__(self, store: Store, keep_s: float | None = None) -> None:
        """Keep what is saved from now on for so long, even where no server runs; None: for ever."""
        self._store = store
        self._keep_s = keep_s
        self._holder = secrets.token_hex(8)

    async def save(
        self, trace_id: str, header: JSONObject, events: Sequence[Event], owner: str = ""
    ) -> None:
        """Add a trace; its texts come first, so that one which is listed can be read."""
        packed = await asyncio.to_thread(_pack, header, events)
        await self._store.blobs.write(_blob(trace_id), _pieces(packed.data), expires_s=self._keep_s)
        listed = {
            "bytes": packed.size,
            "kind": header.get("kind", "chat"),
            "model": header.get("model"),
            "strategy": header.get("strategy"),
            "agreement": agreement_of(events),
            "tokens": header.get("tokens", 0),
        }
        await self._store.records.put(_KIND, trace_id, listed, owner=owner, expires_s=self._keep_s)

    async def load(self, trace_id: str, owner: str | None = None) -> dict[str, Any] | None:
        """Read a trace; None where there is none, or it is not the owner's."""
        record = await self._find(trace_id, owner)
        if record is None:
            return None
        try:
            data = b"".join([piece async for piece in self._store.blobs.read(_blob(trace_id))])
        except KeyError:  # it was deleted in between
            return None
        texts = await asyncio.to_thread(_unpack, data)
        header, events = texts["header"], texts["events"]
        return {**header, "id": trace_id, "saved_at": record.created_at, "events": events}

    async def delete(self, trace_id: str, owner: str | None = None) -> bool:
        """Delete a trace, its texts too; say whether there was one."""
        if await self._find(trace_id, owner) is None:
            return False
        return await self._drop(trace_id)

    async def page(
        self, wanted: Filter, *, after: str | None = None, limit: int = 100
    ) -> list[Summary]:
        """List traces, the newest first; an `after` that is gone gives nothing."""
        found: list[Summary] = []
        async for trace in self._all(wanted.owner, after):
            if wanted.takes(trace):
                found.append(trace)
            if len(found) == limit:
                break
        return found

    async def sweep(self, keep_s: float, max_bytes: int) -> int:
        """Delete what is older, then the oldest until the rest is no larger.

        Where several replicas would do it at the same time, one does.
        """
        if not await self._store.limits.hold("traces:sweep", self._holder, 1, 1, _SWEEPS_S):
            return 0
        total, doomed = 0, []
        oldest = time.time() - keep_s
        async for trace in self._all(None, None):
            total += trace.bytes
            if total > max_bytes or trace.saved_at < oldest:
                doomed.append(trace.id)
        for trace_id in doomed:
            await self._drop(trace_id)
        return len(doomed)

    async def aclose(self) -> None:
        """Nothing to release: the store is others' too."""

    async def _all(self, owner: str | None, after: str | None) -> AsyncIterator[Summary]:
        while True:
            page = await self._store.records.page(_KIND, owner=owner, after=after, limit=_PAGE)
            for record in page:
                yield _summary(record)
            if len(page) < _PAGE:
                return
            after = page[-1].id

    async def _find(self, trace_id: str, owner: str | None) -> Record | None:
        record = await self._store.records.get(_KIND, trace_id)
        return record if record is not None and owner in (None, record.owner) else None

    async def _drop(self, trace_id: str) -> bool:
        gone = await self._store.records.delete(_KIND, trace_id)
        await self._store.blobs.delete(_blob(trace_id))
        return gone


def _blob(trace_id: str) -> str:
    return f"trace:{trace_id}"


def _summary(record: Record) -> Summary:
    return Summary(record.id, record.owner, record.created_at, **record.value)


def _pack(header: JSONObject, events: Sequence[Event]) -> _Packed:
    told = [
        {
            "index": event.index,
            "seconds": event.seconds,
            "kind": str(event.kind),
            "data": event.data,
        }
        for event in events
    ]
    text = json.dumps({"header": header, "events": told}, separators=(",", ":")).encode()
    return _Packed(zlib.compress(text), len(text))


def _unpack(data: bytes) -> dict[str, Any]:
    texts: dict[str, Any] = json.loads(zlib.decompress(data))
    return texts


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data
