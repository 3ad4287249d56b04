"""The tables of the file, and the version by which a file is known as ours."""

from __future__ import annotations

import math
import sqlite3
import time

from server.store.base import StoreError

SCHEMA_VERSION = 1
NEVER = math.inf
"""When what does not expire does so."""

_PATIENCE_S = 1.5
_APPLICATION = 0x464F5245
"""Tells our files from those of other programs: `FORE` in ASCII."""
_SCHEMA = """
-- One row: no number is given out twice.
CREATE TABLE counter (value INTEGER NOT NULL) STRICT;
INSERT INTO counter VALUES (0);
CREATE TABLE records (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    value TEXT NOT NULL,        -- JSON
    version INTEGER NOT NULL,
    owner TEXT NOT NULL,
    place INTEGER NOT NULL,     -- the order in which they were added
    created_at REAL NOT NULL,   -- Unix time, as all times
    expires_at REAL NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT;
CREATE INDEX records_by_place ON records (kind, place);
CREATE INDEX records_by_owner ON records (kind, owner, place);
CREATE INDEX records_by_expiry ON records (expires_at);
CREATE TABLE blobs (
    id TEXT PRIMARY KEY,
    token TEXT NOT NULL UNIQUE,  -- of the writing that made it
    pieces INTEGER NOT NULL,
    expires_at REAL NOT NULL
) STRICT;
CREATE TABLE writings (          -- those that go on
    token TEXT PRIMARY KEY,
    expires_at REAL NOT NULL
) STRICT;
CREATE TABLE pieces (
    token TEXT NOT NULL,
    number INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (token, number)
) STRICT;
CREATE TABLE streams (
    id TEXT PRIMARY KEY,
    last INTEGER NOT NULL,
    expires_at REAL NOT NULL
) STRICT;
CREATE TABLE items (
    stream TEXT NOT NULL,
    number INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (stream, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE jobs (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    batch TEXT NOT NULL,         -- the group, which is a word of SQL
    id TEXT NOT NULL,
    position INTEGER NOT NULL,   -- in its group
    body TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'waiting',
    attempt INTEGER NOT NULL DEFAULT 0,
    token TEXT NOT NULL DEFAULT '',
    at REAL NOT NULL DEFAULT 0,  -- waiting: when it is due; running: when its lease is over
    result TEXT NOT NULL DEFAULT '{}',
    UNIQUE (batch, id)
) STRICT;
CREATE UNIQUE INDEX jobs_by_position ON jobs (batch, position);
CREATE INDEX jobs_by_status ON jobs (batch, status);
CREATE INDEX jobs_waiting ON jobs (queue, place) WHERE status = 'waiting';
CREATE INDEX jobs_running ON jobs (queue, at) WHERE status = 'running';
CREATE INDEX jobs_dead ON jobs (queue, place) WHERE status = 'dead';
CREATE TABLE windows (
    name TEXT PRIMARY KEY,
    used INTEGER NOT NULL,
    expires_at REAL NOT NULL
) STRICT;
CREATE TABLE holds (
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    amount INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    PRIMARY KEY (name, holder)
) STRICT;
"""


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables where there are none. Raises StoreError where there are others."""
    _write_ahead(connection)
    # WAL with NORMAL loses nothing when the process dies; a power cut may take the last changes.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")  # two processes may open a new file at the same time
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (application, version, tables) == (0, 0, 0):
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif application != _APPLICATION:
        raise StoreError("it is a file of something else")
    elif version != SCHEMA_VERSION:
        raise StoreError(f"its schema version is {version}, not {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Keep a write-ahead log; SQLite waits for a lock, but not for others that begin one too."""
    patience = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > patience:
                raise
            time.sleep(0.01)
        else:
            return


def next_number(connection: sqlite3.Connection) -> int:
    """Return a number greater than all before."""
    [(number,)] = connection.execute("UPDATE counter SET value = value + 1 RETURNING value")
    return int(number)
