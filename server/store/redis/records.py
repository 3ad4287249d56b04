"""Records in Redis: a hash each, and sorted sets that list them by kind and owner.

A hash expires by itself; the sets are rid of it by the sweep, and until then skip it.
"""

from __future__ import annotations

from typing import Any

from server.store.records import Record
from server.store.redis.client import PREFIX, Client, span
from server.store.text import read_name, read_value, write_name, write_value
from verifiers.types import JSONObject

EXPIRING = f"{PREFIX}expiring"
"""Kind, owner and id of what expires, by the time when it does."""
COUNTER = f"{PREFIX}counter"
"""No number of it is given out twice."""
SWEEP_ROWS = 500

_SETS = f"""
local function listed(kind) return '{PREFIX}records:' .. kind end
local function owned(kind, owner) return '{PREFIX}owned:' .. kind .. ':' .. owner end
local function expiring(kind, owner, id) return kind .. '\\n' .. owner .. '\\n' .. id end
"""
_WRITE = f"""{_SETS}
local kind, id, mode, value, owner, span = unpack(ARGV)
local version, old, created, place =
  unpack(redis.call('HMGET', KEYS[1], 'version', 'owner', 'created', 'place'))
if mode == 'add' and version then return 0 end
if mode ~= 'add' and mode ~= 'put' and mode ~= version then return 0 end
local replacing = mode == version
local number, time = redis.call('INCR', '{COUNTER}'), redis.call('TIME')
if replacing then owner = old end
if not version then
  created, place = time[1] .. '.' .. string.format('%06d', time[2]), number
elseif old ~= owner then
  redis.call('ZREM', owned(kind, old), id)
  redis.call('ZREM', '{EXPIRING}', expiring(kind, old, id))
end
redis.call('HSET', KEYS[1], 'value', value, 'version', number, 'owner', owner,
  'created', created, 'place', place)
redis.call('ZADD', listed(kind), place, id)
redis.call('ZADD', owned(kind, owner), place, id)
if span ~= '' then
  redis.call('PEXPIRE', KEYS[1], span)
  redis.call('ZADD', '{EXPIRING}', time[1] * 1000 + span, expiring(kind, owner, id))
elseif not replacing then
  redis.call('PERSIST', KEYS[1])
  redis.call('ZREM', '{EXPIRING}', expiring(kind, owner, id))
end
return 1
"""
_DELETE = f"""{_SETS}
local kind, id = unpack(ARGV)
local owner = redis.call('HGET', KEYS[1], 'owner')
if not owner then return 0 end
redis.call('ZREM', listed(kind), id)
redis.call('ZREM', owned(kind, owner), id)
redis.call('ZREM', '{EXPIRING}', expiring(kind, owner, id))
return redis.call('DEL', KEYS[1])
"""
_PAGE = """
local prefix, limit, owner, after = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local top, found, from = '+inf', {}, 0
if after then
  local place, whose = unpack(redis.call('HMGET', prefix .. after, 'place', 'owner'))
  if not place or (owner ~= '*' and owner ~= '=' .. whose) then return {} end
  top = '(' .. place
end
repeat
  local ids = redis.call('ZREVRANGEBYSCORE', KEYS[1], top, '-inf', 'LIMIT', from, limit)
  from = from + #ids
  for _, id in ipairs(ids) do
    local record =
      redis.call('HMGET', prefix .. id, 'value', 'version', 'owner', 'created')
    if #found < limit and record[1] and (owner == '*' or owner == '=' .. record[3]) then
      found[#found + 1] = {id, unpack(record)}
    end
  end
until #ids == 0 or #found == limit
return found
"""
_SWEEP = f"""{_SETS}
local now = redis.call('TIME')[1] * 1000
local gone = redis.call('ZRANGEBYSCORE', '{EXPIRING}', '-inf', now - 1000, 'LIMIT', 0, ARGV[1])
for _, each in ipairs(gone) do
  local kind, owner, id = each:match('^(.-)\\n(.-)\\n(.*)$')
  local still = redis.call('HGET', '{PREFIX}record:' .. kind .. ':' .. id, 'owner')
  if not still then redis.call('ZREM', listed(kind), id) end
  if still ~= owner then redis.call('ZREM', owned(kind, owner), id) end
  redis.call('ZREM', '{EXPIRING}', each)
end
return #gone
"""


class RedisRecords:
    """Reads and writes single records."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._write = client.script(_WRITE)
        self._overwrite = client.script(_WRITE, again=True)
        self._delete = client.script(_DELETE)
        self._page = client.script(_PAGE, again=True)
        self._sweep = client.script(_SWEEP, again=True)

    async def add(
        self,
        kind: str,
        record_id: str,
        value: JSONObject,
        *,
        owner: str = "",
        expires_s: float | None = None,
    ) -> bool:
        """Write a record where none of that id lives; say whether it was written."""
        told = _told(kind, record_id, "add", value, owner, expires_s)
        return bool(await self._write([_key(kind, record_id)], *told))

    async def put(
        self,
        kind: str,
        record_id: str,
        value: JSONObject,
        *,
        owner: str = "",
        expires_s: float | None = None,
    ) -> None:
        """Write a record, over an older one if there is one."""
        told = _told(kind, record_id, "put", value, owner, expires_s)
        await self._overwrite([_key(kind, record_id)], *told)

    async def replace(
        self, kind: str, record: Record, value: JSONObject, *, expires_s: float | None = None
    ) -> bool:
        """Give a record that has not changed since it was read another value."""
        told = _told(kind, record.id, str(record.version), value, record.owner, expires_s)
        return bool(await self._write([_key(kind, record.id)], *told))

    async def get(self, kind: str, record_id: str) -> Record | None:
        """Read a record."""
        key = _key(kind, record_id)
        row = await self._client.read("HMGET", key, "value", "version", "owner", "created")
        return None if row[0] is None else _record(write_name(record_id), *row)

    async def delete(self, kind: str, record_id: str) -> bool:
        """Delete a record; say whether there was one."""
        return bool(await self._delete([_key(kind, record_id)], kind, write_name(record_id)))

    async def page(
        self, kind: str, *, owner: str | None = None, after: str | None = None, limit: int = 100
    ) -> list[Record]:
        """List records, the newest first."""
        whose = None if owner is None else write_name(owner)
        index = f"records:{kind}" if whose is None else f"owned:{kind}:{whose}"
        behind = () if after is None else (write_name(after),)
        rows: list[Any] = await self._page(
            [f"{PREFIX}{index}"],
            *(_key(kind, ""), limit, "*" if whose is None else f"={whose}", *behind),
        )
        return [_record(*row) for row in rows]

    async def sweep(self) -> int:
        """Take what has expired off the lists; return how much."""
        swept = 0
        while count := await self._sweep([EXPIRING], SWEEP_ROWS):
            swept += count
        return swept


def _key(kind: str, record_id: str) -> str:
    return f"{PREFIX}record:{kind}:{write_name(record_id)}"


def _told(
    kind: str, record_id: str, mode: str, value: JSONObject, owner: str, expires_s: float | None
) -> tuple[str | int, ...]:
    """Return the arguments of `_WRITE`; a mode that is a version asks for that one."""
    return (
        *(kind, write_name(record_id), mode),
        *(write_value(value), write_name(owner), span(expires_s)),
    )


def _record(written_id: str, value: str, version: str, owner: str, created: str) -> Record:
    return Record(
        read_name(written_id), read_value(value), int(version), read_name(owner), float(created)
    )
