"""Limits in Redis: a number for each window, which expires with it, and two sets for holders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.store.limits import Charge, Standing, Verdict, judge
from server.store.redis.client import PREFIX, Client, milliseconds
from server.store.text import write_name

_CHARGE = """
local granted, before, after = true, {}, {}
local function standing(key)
  return {tonumber(redis.call('GET', key) or 0), math.max(0, redis.call('PTTL', key))}
end
for i, key in ipairs(KEYS) do
  before[i] = standing(key)
  local amount = tonumber(ARGV[3 * i - 2])
  if amount > 0 and before[i][1] + amount > tonumber(ARGV[3 * i - 1]) then granted = false end
end
if not granted then return {before, before} end
for i, key in ipairs(KEYS) do
  if ARGV[3 * i - 2] ~= '0' then
    redis.call('INCRBY', key, ARGV[3 * i - 2])
    if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, ARGV[3 * i]) end
  end
  after[i] = standing(key)
end
return {before, after}
"""
_CORRECT = """
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 and redis.call('INCRBY', key, ARGV[i]) < 0 then
    redis.call('SET', key, 0, 'KEEPTTL')
  end
end
"""
_HOLD = """
local leases, amounts = KEYS[1], KEYS[2]
local holder, amount, limit, lease = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
  redis.call('ZREM', leases, gone)
  redis.call('HDEL', amounts, gone)
end
local held = redis.call('HGETALL', amounts)
local total = tonumber(amount)
for i = 1, #held, 2 do
  if held[i] ~= holder then total = total + held[i + 1] end
end
if total > tonumber(limit) then return 0 end
redis.call('ZADD', leases, now + lease, holder)
redis.call('HSET', amounts, holder, amount)
local last = redis.call('ZRANGE', leases, -1, -1, 'WITHSCORES')[2]
for _, key in ipairs(KEYS) do redis.call('PEXPIREAT', key, last) end
return 1
"""
_RELEASE = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
"""


class RedisLimits:
    """Counts against limits."""

    def __init__(self, client: Client) -> None:
        self._charge = client.script(_CHARGE)
        self._correct = client.script(_CORRECT)
        self._hold = client.script(_HOLD, again=True)
        self._release = client.script(_RELEASE, again=True)

    async def charge(self, charges: Sequence[Charge]) -> Verdict:
        """Use all of it if everything fits, or nothing."""
        told = [
            word
            for charge in charges
            for word in (charge.amount, charge.limit, milliseconds(charge.window_s))
        ]
        rows: list[list[Any]] = await self._charge([_window(each) for each in charges], *told)
        before, after = ([Standing(used, ms / 1000) for used, ms in row] for row in rows)
        refused = judge(charges, before)
        levels = zip(charges, after, strict=True)
        return Verdict(
            refused is None,
            tuple(standing.level(charge.limit) for charge, standing in levels),
            refused,
        )

    async def correct(self, charges: Sequence[Charge]) -> None:
        """Add amounts, or give back negative ones, without asking."""
        await self._correct(
            [_window(each) for each in charges], *(charge.amount for charge in charges)
        )

    async def hold(self, name: str, holder: str, amount: int, limit: int, lease_s: float) -> bool:
        """Hold so many at once under the name; say whether they fit."""
        told = write_name(holder), amount, limit, milliseconds(lease_s)
        return bool(await self._hold(_held(name), *told))

    async def release(self, name: str, holder: str) -> None:
        """Let go of what a holder holds."""
        await self._release(_held(name), write_name(holder))


def _window(charge: Charge) -> str:
    return f"{PREFIX}window:{write_name(charge.name)}"


def _held(name: str) -> list[str]:
    written = write_name(name)
    return [f"{PREFIX}leases:{written}", f"{PREFIX}amounts:{written}"]
