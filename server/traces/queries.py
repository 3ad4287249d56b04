"""What is asked of a file of traces; each runs on the thread that owns the connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from server.traces.base import Filter, Summary

_INSERT = (
    "INSERT INTO traces "
    "(id, saved_at, owner, bytes, kind, model, strategy, agreement, tokens, header) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SUMMARY = "SELECT id, owner, saved_at, bytes, kind, model, strategy, agreement, tokens FROM traces"
_CONDITIONS = (
    ("owner", "owner = ?"),
    ("strategy", "strategy = ?"),
    ("min_agreement", "agreement >= ?"),
    ("max_agreement", "agreement <= ?"),
    ("min_tokens", "tokens >= ?"),
    ("max_tokens", "tokens <= ?"),
)
_AT_ONCE = 200
"""Traces deleted in one go: what is saved meanwhile waits."""


def insert(
    connection: sqlite3.Connection, trace: Sequence[Any], events: Sequence[Sequence[Any]]
) -> None:
    """Add a trace, in the transaction of the caller."""
    connection.execute(_INSERT, trace)
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", events)


def read(connection: sqlite3.Connection, trace_id: str, owner: str | None) -> dict[str, Any] | None:
    """Read a trace, if it is the owner's."""
    row = connection.execute(
        "SELECT saved_at, header FROM traces WHERE id = ? AND owner = coalesce(?, owner)",
        (trace_id, owner),
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


def page(
    connection: sqlite3.Connection, wanted: Filter, after: str | None, limit: int
) -> list[Summary]:
    """List traces, the newest first."""
    conditions, values = ["TRUE"], []
    for name, condition in _CONDITIONS:
        if (value := getattr(wanted, name)) is not None:
            conditions.append(condition)
            values.append(value)
    if after is not None:
        conditions.append("rowid < (SELECT rowid FROM traces WHERE id = ?)")
        values.append(after)
    rows = connection.execute(
        f"{_SUMMARY} WHERE {' AND '.join(conditions)} ORDER BY rowid DESC LIMIT ?",
        (*values, limit),
    )
    return [Summary(*row) for row in rows]


def delete(connection: sqlite3.Connection, trace_id: str, owner: str | None) -> bool:
    """Delete a trace, if it is the owner's."""
    with _transaction(connection):
        gone = connection.execute(
            "DELETE FROM traces WHERE id = ? AND owner = coalesce(?, owner)", (trace_id, owner)
        ).rowcount
        if gone:
            connection.execute("DELETE FROM events WHERE trace_id = ?", (trace_id,))
    if gone:
        # The log still has the texts as they were written; readers may keep it for a while.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return bool(gone)


def sweep(connection: sqlite3.Connection, oldest: float, max_bytes: int) -> int:
    """Delete some of those saved before `oldest`, or beyond `max_bytes`; return how many."""
    found = connection.execute(
        "SELECT id FROM (SELECT id, saved_at, sum(bytes) OVER "
        "(ORDER BY saved_at DESC, rowid DESC) AS total FROM traces) "
        "WHERE saved_at < ? OR total > ? ORDER BY saved_at LIMIT ?",
        (oldest, max_bytes, _AT_ONCE),
    ).fetchall()
    if found:
        with _transaction(connection):
            connection.executemany("DELETE FROM events WHERE trace_id = ?", found)
            connection.executemany("DELETE FROM traces WHERE id = ?", found)
        connection.executescript("PRAGMA incremental_vacuum")  # `execute` would free one page
    return len(found)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
