"""The store in Redis, which several servers may share.

It runs on Redis 7 or newer, and on what speaks as it does. Everything is under the prefix
`{forethought}:`; another installation takes another database number.
"""

from __future__ import annotations

from typing import Self

from server.store.base import StoreError
from server.store.blobs import Blobs
from server.store.jobs import Jobs
from server.store.limits import Limits
from server.store.records import Records
from server.store.redis.blobs import RedisBlobs
from server.store.redis.client import PREFIX, Client
from server.store.redis.jobs import RedisJobs
from server.store.redis.limits import RedisLimits
from server.store.redis.records import RedisRecords
from server.store.redis.streams import RedisStreams
from server.store.streams import Streams

SCHEMA_VERSION = "1"
_VERSION = f"{PREFIX}version"


class RedisStore:
    """All that is kept, by what it is; `open` makes it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        records = RedisRecords(client)
        self._sweep = records.sweep
        self.records: Records = records
        self.blobs: Blobs = RedisBlobs(client)
        self.streams: Streams = RedisStreams(client)
        self.jobs: Jobs = RedisJobs(client)
        self.limits: Limits = RedisLimits(client)

    @classmethod
    def open(cls, url: str) -> Self:
        """Connect when first used. Raises StoreError: the address is none."""
        return cls(Client(url))

    async def check(self) -> None:
        """Answer within two seconds.

        Raises:
            StoreError: what is there is of another version.
        """
        redis = self._client.redis
        found = await self._client.call(
            lambda: redis.set(_VERSION, SCHEMA_VERSION, nx=True, get=True), again=True
        )
        if found not in (None, SCHEMA_VERSION):
            raise StoreError(f"the store's version in Redis is {found}, not {SCHEMA_VERSION}")

    async def sweep(self) -> int:
        """Take what has expired off the lists; the rest expires by itself."""
        return await self._sweep()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()
