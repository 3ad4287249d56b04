"""Streams in Redis: a Redis stream each, whose entries bear our numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from server.store.redis.client import PREFIX, Client, milliseconds, span
from server.store.streams import Item
from server.store.text import read_value, write_name, write_value
from verifiers.types import JSONObject

SLICE_S = 0.8
"""So long a connection waits at a time, less than Redis is given to answer."""

_APPEND = """
local last = redis.call('XLEN', KEYS[1])
for number = 2, #ARGV do
  last = last + 1
  redis.call('XADD', KEYS[1], last .. '-0', 'value', ARGV[number])
end
if ARGV[1] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return last
"""


class RedisStreams:
    """Appends and follows events."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._append = client.script(_APPEND)
        self._delete = client.script("return redis.call('DEL', KEYS[1])")

    async def append(
        self, stream: str, values: Sequence[JSONObject], *, expires_s: float | None = None
    ) -> int:
        """Add events at the end, all at once; return the number of the last."""
        last = await self._append([_key(stream)], span(expires_s), *map(write_value, values))
        return int(last)

    async def read(
        self, stream: str, *, after: int = 0, limit: int = 1_000, wait_s: float = 0.0
    ) -> list[Item]:
        """Read what follows the event `after`; where there is nothing, wait so long for some."""
        if limit < 1:
            return []
        end = time.monotonic() + wait_s
        while True:
            items = await self._read(stream, after, limit, min(wait_s, SLICE_S))
            wait_s = end - time.monotonic()
            if items or wait_s <= 0:
                return items

    async def _read(self, stream: str, after: int, limit: int, wait_s: float) -> list[Item]:
        redis = self._client.redis if wait_s <= 0 else self._client.waiting
        block = None if wait_s <= 0 else milliseconds(wait_s)
        found = await self._client.call(
            lambda: redis.xread({_key(stream): f"{after}-0"}, limit, block), again=True
        )
        return [
            Item(int(number.partition("-")[0]), read_value(fields["value"]))
            for _, entries in found
            for number, fields in entries
        ]

    async def delete(self, stream: str) -> bool:
        """Delete a stream; say whether there was one."""
        return bool(await self._delete([_key(stream)]))


def _key(stream: str) -> str:
    return f"{PREFIX}stream:{write_name(stream)}"
