"""Blobs in Redis: pieces under the token of their writing, which a blob names once it is whole."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from secrets import token_hex

from server.store.base import StoreUnavailable
from server.store.blobs import PIECE_BYTES, TOO_SLOW, WRITING_S, in_pieces
from server.store.redis.client import PREFIX, Client, milliseconds, span
from server.store.text import write_name

_PIECES = f"{PREFIX}pieces:"
_ADD_PIECE = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""
_CONCLUDE = f"""
local token, count, span = unpack(ARGV)
if redis.call('HLEN', KEYS[2]) ~= tonumber(count) then return 0 end
local old = redis.call('HGET', KEYS[1], 'token')
if old and old ~= token then redis.call('UNLINK', '{_PIECES}' .. old) end
redis.call('HSET', KEYS[1], 'token', token, 'count', count)
for _, key in ipairs(KEYS) do
  if span == '' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, span) end
end
return 1
"""
_DELETE = f"""
local token = redis.call('HGET', KEYS[1], 'token')
if not token then return 0 end
return redis.call('DEL', KEYS[1], '{_PIECES}' .. token)
"""
_DROP = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then redis.call('UNLINK', KEYS[2]) end
"""


class RedisBlobs:
    """Reads and writes whole files in pieces."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._add_piece = client.script(_ADD_PIECE, again=True)
        self._conclude = client.script(_CONCLUDE, again=True)
        self._delete = client.script(_DELETE)
        self._drop = client.script(_DROP, again=True)

    async def write(
        self, blob_id: str, pieces: AsyncIterable[bytes], *, expires_s: float | None = None
    ) -> int:
        """Write a file that nobody sees before it is whole; return its size in bytes."""
        token, count, size = token_hex(16), 0, 0
        kept = f"{_PIECES}{token}"
        try:
            async for piece in in_pieces(pieces, PIECE_BYTES):
                await self._add_piece([kept], count, piece, milliseconds(WRITING_S))
                count += 1
                size += len(piece)
            if not await self._conclude([_key(blob_id), kept], token, count, span(expires_s)):
                raise StoreUnavailable(TOO_SLOW)
        except BaseException:  # it may be whole all the same, where Redis went away at the end
            with suppress(StoreUnavailable):  # then they expire
                await self._drop([_key(blob_id), kept], token)
            raise
        return size

    async def read(self, blob_id: str) -> AsyncIterator[bytes]:
        """Read a file in pieces."""
        token, count = await self._client.read("HMGET", _key(blob_id), "token", "count")
        if token is None:
            raise KeyError(blob_id)
        for number in range(int(count)):
            piece = await self._client.read_bytes("HGET", f"{_PIECES}{token}", number)
            if piece is None:
                raise KeyError(blob_id)
            yield piece

    async def delete(self, blob_id: str) -> bool:
        """Delete a file; say whether there was one."""
        return bool(await self._delete([_key(blob_id)]))


def _key(blob_id: str) -> str:
    return f"{PREFIX}blob:{write_name(blob_id)}"
