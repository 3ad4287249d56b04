"""Streams in SQLite: a row for each event.

Readers in this process are woken by an append; those in others look again after POLL_S.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from weakref import WeakValueDictionary

from server.store.sqlite.connection import Connection
from server.store.sqlite.schema import NEVER
from server.store.streams import Item
from server.store.text import read_value, write_name, write_value
from verifiers.types import JSONObject

POLL_S = 0.5


class SQLiteStreams:
    """Appends and follows events."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._appended: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        """For each stream that someone waits for: set, and forgotten, by the next append."""

    async def append(
        self, stream: str, values: Sequence[JSONObject], *, expires_s: float | None = None
    ) -> int:
        """Add events at the end, all at once; return the number of the last."""
        last = await self._connection.write(_append, stream, values, expires_s)
        appended = self._appended.pop(stream, None)
        if appended is not None:
            appended.set()
        return last

    async def read(
        self, stream: str, *, after: int = 0, limit: int = 1_000, wait_s: float = 0.0
    ) -> list[Item]:
        """Read what follows the event `after`; where there is nothing, wait so long for some."""
        end = time.monotonic() + wait_s
        while True:
            appended = self._appended.setdefault(stream, asyncio.Event())
            items = await self._connection.read(_read, stream, after, limit)
            left = end - time.monotonic()
            if items or left <= 0:
                return items
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, POLL_S)):
                    await appended.wait()

    async def delete(self, stream: str) -> bool:
        """Delete a stream; say whether there was one."""
        return await self._connection.write(_delete, stream)


def _append(
    db: sqlite3.Connection, stream: str, values: Sequence[JSONObject], expires_s: float | None
) -> int:
    name, now = write_name(stream), time.time()
    _drop_expired(db, name, now)
    if values:
        db.execute("INSERT INTO streams VALUES (?, 0, ?) ON CONFLICT DO NOTHING", (name, NEVER))
    end = None if expires_s is None else now + expires_s
    row = db.execute(
        "UPDATE streams SET last = last + ?, expires_at = coalesce(?, expires_at) WHERE id = ?"
        " RETURNING last",
        (len(values), end, name),
    ).fetchone()
    last = 0 if row is None else int(row[0])
    db.executemany(
        "INSERT INTO items VALUES (?, ?, ?)",
        [
            (name, number, write_value(value))
            for number, value in enumerate(values, last - len(values) + 1)
        ],
    )
    return last


def _read(db: sqlite3.Connection, stream: str, after: int, limit: int) -> list[Item]:
    rows = db.execute(
        "SELECT number, items.value FROM items JOIN streams ON streams.id = stream"
        " WHERE stream = ? AND number > ? AND expires_at > ? ORDER BY number LIMIT ?",
        (write_name(stream), after, time.time(), limit),
    )
    return [Item(number, read_value(value)) for number, value in rows]


def _delete(db: sqlite3.Connection, stream: str) -> bool:
    name = write_name(stream)
    _drop_expired(db, name, time.time())
    db.execute("DELETE FROM items WHERE stream = ?", (name,))
    return db.execute("DELETE FROM streams WHERE id = ?", (name,)).rowcount == 1


def _drop_expired(db: sqlite3.Connection, name: str, now: float) -> None:
    gone = db.execute("DELETE FROM streams WHERE id = ? AND expires_at <= ?", (name, now))
    if gone.rowcount:
        db.execute("DELETE FROM items WHERE stream = ?", (name,))
