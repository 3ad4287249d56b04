"""How Redis is spoken to: bounded in time, and never twice where twice is not the same as once.

Redis that is away, full, read-only or still loading is StoreUnavailable; the next call connects
anew. Who waits for events waits on connections of its own, so that others need not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.client import NEVER_DECODE

from server.store.base import StoreError, StoreUnavailable

Result = TypeVar("Result")

PREFIX = "{forethought}:"
"""Before all keys; the braces keep them together on one node of a cluster."""
PATIENCE_S = 1.5
"""A call that takes longer has failed, whatever it waits for."""
CONNECTIONS = 32
FOLLOWERS = 2_000
"""So many may wait for events at once."""

_FAILURES = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
)
_AWAY = ("CLUSTERDOWN", "MASTERDOWN", "MISCONF", "NOREPLICAS", "TRYAGAIN")
"""How errors begin that are Redis' and not ours."""


class Script:
    """A Lua script, which Redis runs whole and is sent once; returns what it returns."""

    def __init__(self, client: Client, source: str, *, again: bool = False) -> None:
        """Let `client` run it; `again`: running it twice is the same as running it once."""
        self._client = client
        self._script = client.redis.register_script(source)
        self._again = again

    async def __call__(self, keys: Sequence[str], *args: str | bytes | int | float) -> Any:
        """Run it. Raises StoreUnavailable."""
        return await self._client.call(lambda: self._script(keys, args), again=self._again)


class Client:
    """Two pools of connections to one Redis."""

    def __init__(self, url: str) -> None:
        """Connect when first used. Raises StoreError: the address is none."""
        options: dict[str, Any] = {
            "protocol": 2,
            "decode_responses": True,
            "socket_timeout": PATIENCE_S,
            "socket_connect_timeout": PATIENCE_S,
        }
        try:
            pool = BlockingConnectionPool.from_url(
                url, max_connections=CONNECTIONS, timeout=PATIENCE_S, **options
            )
            waiting = ConnectionPool.from_url(url, max_connections=FOLLOWERS, **options)
        except ValueError as error:  # its message may quote a password
            raise StoreError("the store's address is none that Redis has") from error
        self._pools = (pool, waiting)
        self.redis: Any = Redis(connection_pool=pool)  # its methods are typed for both kinds of
        self.waiting: Any = Redis(connection_pool=waiting)  # client, and for all protocols, at once

    def script(self, source: str, *, again: bool = False) -> Script:
        """Make a script; `again`: running it twice is the same as running it once."""
        return Script(self, source, again=again)

    async def read(self, *command: str | int) -> Any:
        """Send a command that only reads. Raises StoreUnavailable."""
        return await self.call(lambda: self.redis.execute_command(*command), again=True)

    async def read_bytes(self, *command: str | int) -> bytes | None:
        """Send a command whose answer is no text. Raises StoreUnavailable."""
        read: bytes | None = await self.call(
            lambda: self.redis.execute_command(*command, **{NEVER_DECODE: True}), again=True
        )
        return read

    async def call(self, work: Callable[[], Awaitable[Result]], *, again: bool) -> Result:
        """Do what asks Redis; once more where a connection broke and that is allowed.

        Raises:
            StoreUnavailable: within PATIENCE_S seconds; it may have been done all the same.
        """
        with _told_as_unavailable():
            async with asyncio.timeout(PATIENCE_S):
                try:
                    return await work()
                except exceptions.ConnectionError:
                    if not again:
                        raise
                    return await work()

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.aclose()


@contextmanager
def _told_as_unavailable() -> Iterator[None]:
    try:
        yield
    except (*_FAILURES, OSError) as error:
        raise StoreUnavailable from error
    except exceptions.ResponseError as error:
        if str(error).startswith(_AWAY):
            raise StoreUnavailable from error
        raise


def milliseconds(seconds: float) -> int:
    """Write a span of time as Redis has it."""
    return max(1, round(seconds * 1000))


def span(seconds: float | None) -> int | str:
    """Write a span of time for a script; none at all is an empty string."""
    return "" if seconds is None else milliseconds(seconds)
