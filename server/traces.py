"""Traces on disk: what every run did, event by event, in an append-only SQLite file.

One thread owns the connection, so the event loop never waits for the disk. Saves that come while
one is written go into the next transaction together. Nothing is deleted yet: a trace is about as
large as the texts of its samples.
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

from strategies.events import Event
from verifiers.types import JSONObject

Argument = TypeVar("Argument")
Result = TypeVar("Result")

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE traces (
    id TEXT PRIMARY KEY,
    saved_at REAL NOT NULL,  -- Unix time
    header TEXT NOT NULL     -- JSON: the request and its outcome
) STRICT;
CREATE TABLE events (
    trace_id TEXT NOT NULL REFERENCES traces (id),
    number INTEGER NOT NULL,
    seconds REAL NOT NULL,   -- since the request was received
    kind TEXT NOT NULL,
    data TEXT NOT NULL,      -- JSON
    PRIMARY KEY (trace_id, number)
) STRICT, WITHOUT ROWID;
"""


class TraceError(Exception):
    """The file cannot be opened, or is not a store of traces of this version."""


class _Save(NamedTuple):
    """A trace on its way to the disk."""

    header: tuple[str, float, str]
    events: list[tuple[str, int, float, str, str]]
    saved: asyncio.Future[None]


class TraceStore:
    """A store of traces; `open` makes it."""

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

    async def save(self, trace_id: str, header: JSONObject, events: Sequence[Event]) -> None:
        """Add a trace; once this returns, it outlives the process.

        Raises:
            sqlite3.IntegrityError: there is a trace of that id.
        """
        rows = [
            (trace_id, event.index, event.seconds, str(event.kind), _json(event.data))
            for event in events
        ]
        saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Save((trace_id, time.time(), _json(header)), rows, saved))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        await saved

    async def load(self, trace_id: str) -> dict[str, Any] | None:
        """Read a trace: its header's fields, `id`, `saved_at` and `events`; None if unknown."""
        return await self._on_thread(_read, trace_id)

    async def aclose(self) -> None:
        """Write what waits, and close the file."""
        if self._writer is not None:
            await self._writer
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def _on_thread(
        self, work: Callable[[sqlite3.Connection, Argument], Result], argument: Argument
    ) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, self._connection, argument)

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
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA journal_mode = WAL")
    # WAL with NORMAL loses nothing when the process dies; a power cut may take the last traces.
    connection.execute("PRAGMA synchronous = NORMAL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version == 0 and tables == 0:
        connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
    elif version != SCHEMA_VERSION:
        raise TraceError(f"its schema version is {version}, not {SCHEMA_VERSION}")


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
        connection.execute("INSERT INTO traces VALUES (?, ?, ?)", save.header)
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", save.events)
    except sqlite3.IntegrityError as error:
        connection.execute("ROLLBACK TO one")
        return error
    finally:
        connection.execute("RELEASE one")
    return None


def _read(connection: sqlite3.Connection, trace_id: str) -> dict[str, Any] | None:
    row = connection.execute(
        "SELECT saved_at, header FROM traces WHERE id = ?", (trace_id,)
    ).fetchone()
    if row is None:
        return None
    events = connection.execute(
        "SELECT number, seconds, kind, data FROM events WHERE trace_id = ? ORDER BY number",
        (trace_id,),
    )
    return {
        **json.loads(row[1]),
        "id": trace_id,
        "saved_at": row[0],
        "events": [
            {"index": number, "seconds": seconds, "kind": kind, "data": json.loads(data)}
            for number, seconds, kind, data in events
        ],
    }


def _json(value: JSONObject) -> str:
    # In ASCII, as a client may send half of a surrogate pair, which SQLite does not take.
    return json.dumps(value, separators=(",", ":"))
