"""Blobs in SQLite: pieces under the token of their writing, which a blob names once it is whole."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from secrets import token_hex

from server.store.base import StoreUnavailable
from server.store.blobs import PIECE_BYTES, TOO_SLOW, WRITING_S, in_pieces
from server.store.sqlite.connection import Connection
from server.store.sqlite.schema import NEVER
from server.store.text import write_name


class SQLiteBlobs:
    """Reads and writes whole files in pieces."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(
        self, blob_id: str, pieces: AsyncIterable[bytes], *, expires_s: float | None = None
    ) -> int:
        """Write a file that nobody sees before it is whole; return its size in bytes."""
        token, count, size = token_hex(16), 0, 0
        try:
            async for piece in in_pieces(pieces, PIECE_BYTES):
                await self._connection.write(_add_piece, token, count, piece)
                count += 1
                size += len(piece)
            if not await self._connection.write(_conclude, blob_id, token, count, expires_s):
                raise StoreUnavailable(TOO_SLOW)
        except BaseException:  # it may be whole all the same, where we are cancelled at the end
            with suppress(StoreUnavailable):  # then a sweep deletes them
                await self._connection.write(_drop_unfinished, token)
            raise
        return size

    async def read(self, blob_id: str) -> AsyncIterator[bytes]:
        """Read a file in pieces."""
        found = await self._connection.read(_find, blob_id)
        if found is None:
            raise KeyError(blob_id)
        token, count = found
        for number in range(count):
            piece = await self._connection.read(_piece, token, number)
            if piece is None:
                raise KeyError(blob_id)
            yield piece

    async def delete(self, blob_id: str) -> bool:
        """Delete a file; say whether there was one."""
        return await self._connection.write(_delete, blob_id)


def _add_piece(db: sqlite3.Connection, token: str, number: int, data: bytes) -> None:
    db.execute(
        "INSERT INTO writings VALUES (?, ?)"
        " ON CONFLICT DO UPDATE SET expires_at = excluded.expires_at",
        (token, time.time() + WRITING_S),
    )
    db.execute("INSERT INTO pieces VALUES (?, ?, ?)", (token, number, data))


def _conclude(
    db: sqlite3.Connection, blob_id: str, token: str, count: int, expires_s: float | None
) -> bool:
    [(found,)] = db.execute("SELECT count(*) FROM pieces WHERE token = ?", (token,))
    if found != count:
        return False
    _delete(db, blob_id)
    end = NEVER if expires_s is None else time.time() + expires_s
    db.execute("INSERT INTO blobs VALUES (?, ?, ?, ?)", (write_name(blob_id), token, count, end))
    db.execute("DELETE FROM writings WHERE token = ?", (token,))
    return True


def _find(db: sqlite3.Connection, blob_id: str) -> tuple[str, int] | None:
    found: tuple[str, int] | None = db.execute(
        "SELECT token, pieces FROM blobs WHERE id = ? AND expires_at > ?",
        (write_name(blob_id), time.time()),
    ).fetchone()
    return found


def _piece(db: sqlite3.Connection, token: str, number: int) -> bytes | None:
    row = db.execute(
        "SELECT data FROM pieces WHERE token = ? AND number = ?", (token, number)
    ).fetchone()
    return None if row is None else bytes(row[0])


def _delete(db: sqlite3.Connection, blob_id: str) -> bool:
    row = db.execute(
        "DELETE FROM blobs WHERE id = ? RETURNING token, expires_at", (write_name(blob_id),)
    ).fetchone()
    if row is None:
        return False
    token, expires_at = row
    db.execute("DELETE FROM pieces WHERE token = ?", (token,))
    return bool(expires_at > time.time())


def _drop_unfinished(db: sqlite3.Connection, token: str) -> None:
    if db.execute("DELETE FROM writings WHERE token = ?", (token,)).rowcount:
        db.execute("DELETE FROM pieces WHERE token = ?", (token,))
