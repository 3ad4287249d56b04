"""Traces in an SQLite file of their own, which is copied and exported while the server runs.

One thread owns the connection, so the event loop never waits for the disk. Saves that come while
one is written go into the next transaction together.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from server.traces import queries
from server.traces.base import Filter, Summary, TraceError, agreement_of
from server.traces.schema import prepare
from strategies.events import Event
from verifiers.types import JSONObject

Result = TypeVar("Result")


class _Save(NamedTuple):
    """A trace on its way to the disk."""

    trace: tuple[Any, ...]
    events: list[tuple[str, int, float, str, str]]
    saved: asyncio.Future[None]


class TraceStore:
    """A file of traces; `open` makes it."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread
        self._waiting: list[_Save] = []
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: str | Path) -> Self:
        """Open the file, or make it with its directory.

        Raises:
            TraceError: it is something else, or of another version.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="traces")
        loop = asyncio.get_running_loop()
        try:
            connection = await loop.run_in_executor(thread, _connect, Path(path))
        except (sqlite3.Error, OSError, TraceError) as error:
            thread.shutdown(wait=False)
            raise TraceError(f"traces cannot be kept in {path}: {error}") from error
        return cls(connection, thread)

    async def save(
        self, trace_id: str, header: JSONObject, events: Sequence[Event], owner: str = ""
    ) -> None:
        """Add a trace; once this returns, it outlives the process.

        Raises:
            sqlite3.IntegrityError: there is a trace of that id.
        """
        rows = [
            (trace_id, event.index, event.seconds, str(event.kind), _json(event.data))
            for event in events
        ]
        text = _json(header)
        trace = (
            trace_id,
            time.time(),
            owner,
            len(text) + sum(len(row[-1]) for row in rows),
            header.get("kind", "chat"),
            header.get("model"),
            header.get("strategy"),
            agreement_of(events),
            header.get("tokens", 0),
            text,
        )
        saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Save(trace, rows, saved))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        await saved

    async def load(self, trace_id: str, owner: str | None = None) -> dict[str, Any] | None:
        """Read a trace; None where there is none, or it is not the owner's."""
        return await self._on_thread(queries.read, trace_id, owner)

    async def delete(self, trace_id: str, owner: str | None = None) -> bool:
        """Delete a trace, its texts too; say whether there was one."""
        return await self._on_thread(queries.delete, trace_id, owner)

    async def page(
        self, wanted: Filter, *, after: str | None = None, limit: int = 100
    ) -> list[Summary]:
        """List traces, the newest first; an `after` that is gone gives nothing."""
        return await self._on_thread(queries.page, wanted, after, limit)

    async def sweep(self, keep_s: float, max_bytes: int) -> int:
        """Delete what is older, then the oldest until the rest is no larger."""
        swept = 0
        while some := await self._on_thread(queries.sweep, time.time() - keep_s, max_bytes):
            swept += some
        return swept

    async def aclose(self) -> None:
        """Write what waits, and close the file."""
        if self._writer is not None:
            await self._writer
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def _on_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, self._connection, *arguments)

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            outcomes = await self._on_thread(_write, batch)
            for save, error in zip(batch, outcomes, strict=True):
                if save.saved.cancelled():
                    continue
                if error is None:
                    save.saved.set_result(None)
                else:
                    save.saved.set_exception(error)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _write(connection: sqlite3.Connection, batch: Sequence[_Save]) -> list[sqlite3.Error | None]:
    """Write a batch in one transaction; a trace that fails does not take the others along."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        outcomes = [_write_one(connection, save) for save in batch]
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        return [error] * len(batch)
    return outcomes


def _write_one(connection: sqlite3.Connection, save: _Save) -> sqlite3.Error | None:
    connection.execute("SAVEPOINT one")
    try:
        queries.insert(connection, save.trace, save.events)
    except sqlite3.IntegrityError as error:
        connection.execute("ROLLBACK TO one")
        return error
    finally:
        connection.execute("RELEASE one")
    return None


def _json(value: JSONObject) -> str:
    # In ASCII, as a client may send half of a surrogate pair, which SQLite does not take.
    return json.dumps(value, separators=(",", ":"))
