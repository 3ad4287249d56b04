"""Records in SQLite: a row each."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from server.store.records import Record
from server.store.sqlite.connection import Connection
from server.store.sqlite.schema import NEVER, next_number
from server.store.text import read_name, read_value, write_name, write_value
from verifiers.types import JSONObject

_COLUMNS = "id, value, version, owner, created_at"


class SQLiteRecords:
    """Reads and writes single records."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(
        self,
        kind: str,
        record_id: str,
        value: JSONObject,
        *,
        owner: str = "",
        expires_s: float | None = None,
    ) -> bool:
        """Write a record where none of that id lives; say whether it was written."""
        return await self._connection.write(_add, kind, record_id, value, owner, expires_s)

    async def put(
        self,
        kind: str,
        record_id: str,
        value: JSONObject,
        *,
        owner: str = "",
        expires_s: float | None = None,
    ) -> None:
        """Write a record, over an older one if there is one."""
        await self._connection.write(_put, kind, record_id, value, owner, expires_s)

    async def replace(
        self, kind: str, record: Record, value: JSONObject, *, expires_s: float | None = None
    ) -> bool:
        """Give a record that has not changed since it was read another value."""
        return await self._connection.write(_replace, kind, record, value, expires_s)

    async def get(self, kind: str, record_id: str) -> Record | None:
        """Read a record."""
        return await self._connection.read(_get, kind, record_id)

    async def delete(self, kind: str, record_id: str) -> bool:
        """Delete a record; say whether there was one."""
        return await self._connection.write(_delete, kind, record_id)

    async def page(
        self, kind: str, *, owner: str | None = None, after: str | None = None, limit: int = 100
    ) -> list[Record]:
        """List records, the newest first."""
        return await self._connection.read(_page, kind, owner, after, limit)


def _add(
    db: sqlite3.Connection,
    kind: str,
    record_id: str,
    value: JSONObject,
    owner: str,
    expires_s: float | None,
) -> bool:
    _drop_expired(db, kind, record_id)
    row = _row(db, kind, record_id, value, owner, expires_s)
    added = db.execute(
        "INSERT INTO records VALUES (:kind, :id, :value, :number, :owner, :number, :now, :end)"
        " ON CONFLICT DO NOTHING",
        row,
    )
    return added.rowcount == 1


def _put(
    db: sqlite3.Connection,
    kind: str,
    record_id: str,
    value: JSONObject,
    owner: str,
    expires_s: float | None,
) -> None:
    _drop_expired(db, kind, record_id)
    row = _row(db, kind, record_id, value, owner, expires_s)
    db.execute(
        "INSERT INTO records VALUES (:kind, :id, :value, :number, :owner, :number, :now, :end)"
        " ON CONFLICT DO UPDATE SET value = :value, version = :number, owner = :owner,"
        " expires_at = :end",
        row,
    )


def _row(
    db: sqlite3.Connection,
    kind: str,
    record_id: str,
    value: JSONObject,
    owner: str,
    expires_s: float | None,
) -> dict[str, Any]:
    now = time.time()
    return {
        "kind": kind,
        "id": write_name(record_id),
        "value": write_value(value),
        "owner": write_name(owner),
        "number": next_number(db),
        "now": now,
        "end": NEVER if expires_s is None else now + expires_s,
    }


def _replace(
    db: sqlite3.Connection,
    kind: str,
    record: Record,
    value: JSONObject,
    expires_s: float | None,
) -> bool:
    now = time.time()
    replaced = db.execute(
        "UPDATE records SET value = ?, version = ?, expires_at = coalesce(?, expires_at)"
        " WHERE kind = ? AND id = ? AND version = ? AND expires_at > ?",
        (
            *(write_value(value), next_number(db), None if expires_s is None else now + expires_s),
            *(kind, write_name(record.id), record.version, now),
        ),
    )
    return replaced.rowcount == 1


def _get(db: sqlite3.Connection, kind: str, record_id: str) -> Record | None:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM records WHERE kind = ? AND id = ? AND expires_at > ?",
        (kind, write_name(record_id), time.time()),
    ).fetchone()
    return None if row is None else _record(row)


def _delete(db: sqlite3.Connection, kind: str, record_id: str) -> bool:
    _drop_expired(db, kind, record_id)
    written = write_name(record_id)
    deleted = db.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, written))
    return deleted.rowcount == 1


def _page(
    db: sqlite3.Connection, kind: str, owner: str | None, after: str | None, limit: int
) -> list[Record]:
    which = "kind = :kind AND expires_at > :now"
    told: dict[str, Any] = {"kind": kind, "now": time.time(), "limit": limit}
    if owner is not None:
        which += " AND owner = :owner"
        told["owner"] = write_name(owner)
    behind = ""
    if after is not None:
        behind = f" AND place < (SELECT place FROM records WHERE {which} AND id = :after)"
        told["after"] = write_name(after)
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM records WHERE {which}{behind} ORDER BY place DESC LIMIT :limit",
        told,
    )
    return [_record(row) for row in rows]


def _drop_expired(db: sqlite3.Connection, kind: str, record_id: str) -> None:
    db.execute(
        "DELETE FROM records WHERE kind = ? AND id = ? AND expires_at <= ?",
        (kind, write_name(record_id), time.time()),
    )


def _record(row: tuple[Any, ...]) -> Record:
    written_id, value, version, owner, created_at = row
    return Record(read_name(written_id), read_value(value), version, read_name(owner), created_at)
