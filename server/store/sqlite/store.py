"""The store in an SQLite file beside the server, which other processes may open as well."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import Self

from server.store.base import StoreUnavailable
from server.store.blobs import Blobs
from server.store.jobs import Jobs
from server.store.limits import Limits
from server.store.records import Records
from server.store.sqlite.blobs import SQLiteBlobs
from server.store.sqlite.connection import MEMORY, Connection, connect, new_thread
from server.store.sqlite.jobs import SQLiteJobs
from server.store.sqlite.limits import SQLiteLimits
from server.store.sqlite.records import SQLiteRecords
from server.store.sqlite.streams import SQLiteStreams
from server.store.streams import Streams

PATIENCE_S = 2.0
SWEEP_ROWS = 500
"""So many are deleted at once, so that others need not wait."""


class SQLiteStore:
    """All that is kept, by what it is; `open` makes it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.records: Records = SQLiteRecords(connection)
        self.blobs: Blobs = SQLiteBlobs(connection)
        self.streams: Streams = SQLiteStreams(connection)
        self.jobs: Jobs = SQLiteJobs(connection)
        self.limits: Limits = SQLiteLimits(connection)

    @classmethod
    async def open(cls, path: str) -> Self:
        """Open the file, or make it with its directory. Raises StoreError."""
        return cls(await Connection.open(path))

    @classmethod
    def in_memory(cls) -> Self:
        """Make one that ends with the process."""
        return cls(Connection(connect(MEMORY), new_thread()))

    async def check(self) -> None:
        """Answer within two seconds."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._connection.read(_check)
        except TimeoutError as error:
            raise StoreUnavailable from error

    async def sweep(self) -> int:
        """Delete what has expired; return how much."""
        deleted = 0
        while swept := await self._connection.write(_sweep):
            deleted += swept
        return deleted

    async def aclose(self) -> None:
        """Let go of the file."""
        await self._connection.aclose()


def _check(db: sqlite3.Connection) -> None:
    db.execute("SELECT value FROM counter").fetchone()


def _sweep(db: sqlite3.Connection) -> int:
    now, deleted = time.time(), 0
    for table, key, parts in (
        ("records", "id", None),
        ("windows", "name", None),
        ("holds", "name", None),
        ("streams", "id", "items WHERE stream"),
        ("blobs", "token", "pieces WHERE token"),
        ("writings", "token", "pieces WHERE token"),
    ):
        expired = f"SELECT rowid FROM {table} WHERE expires_at <= ? LIMIT {SWEEP_ROWS}"
        rows = db.execute(
            f"DELETE FROM {table} WHERE rowid IN ({expired}) RETURNING {key}", (now,)
        ).fetchall()
        if parts is not None:
            db.executemany(f"DELETE FROM {parts} = ?", rows)
        deleted += len(rows)
    return deleted
