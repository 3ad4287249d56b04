"""The tables of a file of traces, and how an older file gets them."""

from __future__ import annotations

import sqlite3

from server.traces.base import TraceError

SCHEMA_VERSION = 2
READABLE = (1, SCHEMA_VERSION)
"""Versions in which header and events are found at the same places."""

_COLUMNS = {
    "owner": "TEXT NOT NULL DEFAULT ''",
    "bytes": "INTEGER NOT NULL DEFAULT 0",  # of header and events
    "kind": "TEXT NOT NULL DEFAULT 'chat'",
    "model": "TEXT",
    "strategy": "TEXT",
    "agreement": "REAL",
    "tokens": "INTEGER NOT NULL DEFAULT 0",
}
"""What is listed and chosen by."""
_SCHEMA = f"""
CREATE TABLE traces (
    id TEXT PRIMARY KEY,
    saved_at REAL NOT NULL,  -- Unix time
    {", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())},
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
_INDEXES = """
CREATE INDEX traces_by_age ON traces (saved_at, bytes);
CREATE INDEX traces_by_owner ON traces (owner);
"""
_BROUGHT_UP = """
UPDATE traces SET
    kind = coalesce(header ->> '$.kind', 'chat'),
    model = header ->> '$.model',
    strategy = header ->> '$.strategy',
    agreement = (
        SELECT CAST(data ->> '$.agreement' AS REAL) FROM events
        WHERE trace_id = id AND kind = 'finished' ORDER BY number DESC LIMIT 1
    ),
    tokens = (
        SELECT coalesce(sum(data ->> '$.tokens'), 0) FROM events
        WHERE trace_id = id AND kind = 'sampled'
    ),
    bytes = length(header) + (
        SELECT coalesce(sum(length(data)), 0) FROM events WHERE trace_id = id
    );
"""
"""What version 1 kept in JSON alone. Replies that were extended count their tokens anew."""


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables of a new file, or bring up those of an older one.

    Raises:
        TraceError: it is something else, or of a newer version.
    """
    connection.execute("PRAGMA busy_timeout = 5000")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version == 0 and tables == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only a file without tables can
    connection.execute("PRAGMA journal_mode = WAL")
    # WAL with NORMAL loses nothing when the process dies; a power cut may take the last traces.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA secure_delete = ON")  # what is deleted is nowhere in the file
    if version == 0 and tables == 0:
        _run(connection, _SCHEMA + _INDEXES)
    elif version == 1:
        added = (f"ALTER TABLE traces ADD COLUMN {name} {kind};" for name, kind in _COLUMNS.items())
        _run(connection, "".join(added) + _BROUGHT_UP + _INDEXES)
    elif version != SCHEMA_VERSION:
        raise TraceError(f"its schema version is {version}, not {SCHEMA_VERSION}")


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run it whole or not at all."""
    connection.executescript(
        f"BEGIN IMMEDIATE;{script}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
    )
