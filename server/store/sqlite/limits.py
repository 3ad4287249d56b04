"""Limits in SQLite: a row for each window that has begun, and for each holder."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from server.store.limits import Charge, Standing, Verdict, judge
from server.store.sqlite.connection import Connection
from server.store.text import write_name


class SQLiteLimits:
    """Counts against limits."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def charge(self, charges: Sequence[Charge]) -> Verdict:
        """Use all of it if everything fits, or nothing."""
        return await self._connection.write(_charge, charges)

    async def correct(self, charges: Sequence[Charge]) -> None:
        """Add amounts, or give back negative ones, without asking."""
        await self._connection.write(_correct, charges)

    async def hold(self, name: str, holder: str, amount: int, limit: int, lease_s: float) -> bool:
        """Hold so many at once under the name; say whether they fit."""
        return await self._connection.write(_hold, name, holder, amount, limit, lease_s)

    async def release(self, name: str, holder: str) -> None:
        """Let go of what a holder holds."""
        await self._connection.write(_release, name, holder)


def _charge(db: sqlite3.Connection, charges: Sequence[Charge]) -> Verdict:
    now = time.time()
    before = [_standing(db, charge, now) for charge in charges]
    refused = judge(charges, before)
    if refused is None:
        for charge in charges:
            if charge.amount:
                _use(db, charge, now)
    levels = tuple(_standing(db, charge, now).level(charge.limit) for charge in charges)
    return Verdict(refused is None, levels, refused)


def _standing(db: sqlite3.Connection, charge: Charge, now: float) -> Standing:
    row = db.execute(
        "SELECT used, expires_at FROM windows WHERE name = ? AND expires_at > ?",
        (write_name(charge.name), now),
    ).fetchone()
    return Standing(0, 0.0) if row is None else Standing(row[0], row[1] - now)


def _use(db: sqlite3.Connection, charge: Charge, now: float) -> None:
    name = write_name(charge.name)
    db.execute("DELETE FROM windows WHERE name = ? AND expires_at <= ?", (name, now))
    db.execute(
        "INSERT INTO windows VALUES (:name, :amount, :end)"
        " ON CONFLICT DO UPDATE SET used = used + :amount",
        {"name": name, "amount": charge.amount, "end": now + charge.window_s},
    )


def _correct(db: sqlite3.Connection, charges: Sequence[Charge]) -> None:
    db.executemany(
        "UPDATE windows SET used = max(0, used + ?) WHERE name = ? AND expires_at > ?",
        [(charge.amount, write_name(charge.name), time.time()) for charge in charges],
    )


def _hold(
    db: sqlite3.Connection, name: str, holder: str, amount: int, limit: int, lease_s: float
) -> bool:
    name, holder, now = write_name(name), write_name(holder), time.time()
    [(others,)] = db.execute(
        "SELECT coalesce(sum(amount), 0) FROM holds"
        " WHERE name = ? AND holder <> ? AND expires_at > ?",
        (name, holder, now),
    )
    if others + amount > limit:
        return False
    db.execute("REPLACE INTO holds VALUES (?, ?, ?, ?)", (name, holder, amount, now + lease_s))
    return True


def _release(db: sqlite3.Connection, name: str, holder: str) -> None:
    db.execute(
        "DELETE FROM holds WHERE name = ? AND holder = ?", (write_name(name), write_name(holder))
    )
