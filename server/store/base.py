"""State that outlives a request, and that replicas share: one protocol, two implementations.

`server.store.sqlite` keeps it in a file beside the server: the default, for one replica.
`server.store.redis` keeps it in Redis, for several. `open_store` chooses by the address.

Once a call returns, its effect outlives a kill -9 of this process; of Redis too, where it runs with
`appendonly yes` and `appendfsync always`.
"""

from __future__ import annotations

from typing import Protocol

from server.store.blobs import Blobs
from server.store.jobs import Jobs
from server.store.limits import Limits
from server.store.records import Records
from server.store.streams import Streams
from verifiers.errors import ForethoughtError


class StoreUnavailable(ForethoughtError):
    """The store does not answer now; what needs no state is served all the same."""

    status = 503
    type = "upstream_error"
    code = "store_unavailable"

    def __init__(self, message: str = "the server's store does not answer now") -> None:
        super().__init__(message)


class StoreError(Exception):
    """The address is none, or what is there is of another version."""


class Store(Protocol):
    """All that is kept, by what it is."""

    records: Records
    blobs: Blobs
    streams: Streams
    jobs: Jobs
    limits: Limits

    async def check(self) -> None:
        """Answer within two seconds. Raises StoreUnavailable."""

    async def sweep(self) -> int:
        """Delete what has expired, where that does not happen by itself; return how much."""

    async def aclose(self) -> None:
        """Let go of it; nothing is lost."""


async def open_store(url: str) -> Store:
    """Open `sqlite:PATH` (or a plain path), or `redis://…`, `rediss://…`, `unix://…`.

    A Redis that is away is no error here: it is used when it comes.

    Raises:
        StoreError: it cannot be opened.
    """
    if url.partition(":")[0] in ("redis", "rediss", "unix"):
        from server.store.redis.store import RedisStore

        return RedisStore.open(url)
    from server.store.sqlite.store import SQLiteStore

    return await SQLiteStore.open(url.removeprefix("sqlite:"))
