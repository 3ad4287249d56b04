"""One thread owns the connection, so that the event loop never waits for the disk.

Changes that come while others are written go into the next transaction together.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

from server.store.base import StoreError, StoreUnavailable
from server.store.sqlite.schema import prepare

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

MEMORY = ":memory:"
BUSY_MS = 1_500
"""How long another process may hold the file before it counts as away."""


class _Change(NamedTuple):
    """A change on its way to the disk."""

    make: Callable[[sqlite3.Connection], Any]
    made: asyncio.Future[Any]


class Connection:
    """A connection to a file, or to memory; `open` makes it."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread
        self._waiting: list[_Change] = []
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: str) -> Self:
        """Open the file, or make it with its directory.

        Raises:
            StoreError: it is something else, or of another version.
        """
        thread = new_thread()
        loop = asyncio.get_running_loop()
        try:
            connection = await loop.run_in_executor(thread, connect, path)
        except (sqlite3.Error, OSError, StoreError) as error:
            thread.shutdown(wait=False)
            raise StoreError(f"the store cannot be kept in {path}: {error}") from error
        return cls(connection, thread)

    async def read(
        self,
        query: Callable[Concatenate[sqlite3.Connection, Parameters], Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Run a query of one statement. Raises StoreUnavailable."""
        return await self._on_thread(partial(query, self._connection, *args, **kwargs))

    async def write(
        self,
        change: Callable[Concatenate[sqlite3.Connection, Parameters], Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Make a change, whole or not at all; once this returns, it outlives the process.

        Raises:
            StoreUnavailable: it was not made.
        """
        made: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Change(lambda db: change(db, *args, **kwargs), made))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        return await made

    async def aclose(self) -> None:
        """Make the changes that wait, and close the file."""
        if self._writer is not None:
            await self._writer
        await self._on_thread(self._connection.close)
        self._thread.shutdown()

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work)
        except sqlite3.OperationalError as error:
            raise StoreUnavailable from error

    async def _write_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            changes, self._waiting = self._waiting, []
            committed = loop.run_in_executor(self._thread, _commit, self._connection, changes)
            await asyncio.wait([committed])
            _tell(changes, committed)


def _tell(changes: Sequence[_Change], committed: asyncio.Future[list[Any]]) -> None:
    """Tell everyone what came of a change, be it a fault of ours."""
    error = committed.exception()
    if isinstance(error, sqlite3.OperationalError):
        error, cause = StoreUnavailable(), error
        error.__cause__ = cause
    for number, change in enumerate(changes):
        if change.made.done():  # whoever asked for it was cancelled
            continue
        if error is None:
            change.made.set_result(committed.result()[number])
        else:
            change.made.set_exception(error)


def new_thread() -> ThreadPoolExecutor:
    """Make the thread that is to own a connection."""
    return ThreadPoolExecutor(1, thread_name_prefix="store")


def connect(path: str) -> sqlite3.Connection:
    """Open a file that only its owner can read, and prepare it. Raises as `prepare` and sqlite3."""
    if path != MEMORY:
        place = Path(path)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.touch(mode=0o600)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _commit(connection: sqlite3.Connection, changes: Sequence[_Change]) -> list[Any]:
    """Make changes in one transaction: all of them, or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        results = [change.make(connection) for change in changes]
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return results
