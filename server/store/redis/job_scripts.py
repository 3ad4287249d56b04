"""What Redis does of jobs, in Lua.

A job is a hash under its group and id, parted by a line feed, which neither holds. Its queue has
sorted sets of the jobs that wait (by their place), are not due yet and run (by the time when that
ends), and are dead; its group has those of all and of the ended ones (by their position), and
counts.
"""

from __future__ import annotations

from server.store.redis.client import PREFIX

BATCH = 500
"""So many jobs of a group are moved at once: others need not wait."""

_COMMON = f"""
local P = '{PREFIX}'
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function key(job) return P .. 'job:' .. job end
local function get(job, ...) return unpack(redis.call('HMGET', key(job), ...)) end
local function leave_sets(job, queue)
  for _, set in ipairs({{'waiting:', 'delayed:', 'running:', 'dead:'}}) do
    redis.call('ZREM', P .. set .. queue, job)
  end
end
local function move(job, status, at)
  local queue, old, place, position = get(job, 'queue', 'status', 'place', 'position')
  local group, id = job:match('^(.-)\\n(.*)$')
  leave_sets(job, queue)
  redis.call('ZREM', P .. 'ended:' .. group, id)
  redis.call('HINCRBY', P .. 'counts:' .. group, old, -1)
  redis.call('HINCRBY', P .. 'counts:' .. group, status, 1)
  redis.call('HSET', key(job), 'status', status)
  if status == 'running' then
    redis.call('ZADD', P .. 'running:' .. queue, at, job)
  elseif status == 'waiting' then
    redis.call('ZADD', P .. (at and 'delayed:' or 'waiting:') .. queue, at or place, job)
  else
    redis.call('ZADD', P .. 'ended:' .. group, position, id)
    if status == 'dead' then redis.call('ZADD', P .. 'dead:' .. queue, place, job) end
  end
end
"""

ENQUEUE = f"""{_COMMON}
local queue, group = ARGV[1], ARGV[2]
local counts, new = P .. 'counts:' .. group, 0
for i = 3, #ARGV, 2 do
  local job = group .. '\\n' .. ARGV[i]
  if redis.call('EXISTS', key(job)) == 0 then
    local position = redis.call('HINCRBY', counts, 'next', 1) - 1
    local place = redis.call('INCR', P .. 'places')
    redis.call('HSET', key(job), 'queue', queue, 'status', 'waiting', 'place', place,
      'position', position, 'body', ARGV[i + 1], 'attempt', 0)
    redis.call('ZADD', P .. 'jobs:' .. group, position, ARGV[i])
    redis.call('ZADD', P .. 'waiting:' .. queue, place, job)
    redis.call('HINCRBY', counts, 'waiting', 1)
    new = new + 1
  end
end
return new
"""
CLAIM = f"""{_COMMON}
local queue, limit, lease, attempts, token, error = unpack(ARGV)
local now, claims = clock(), {{}}
for _, job in ipairs(redis.call('ZRANGEBYSCORE', P .. 'delayed:' .. queue, '-inf', now)) do
  move(job, 'waiting')
end
for _, job in ipairs(redis.call('ZRANGEBYSCORE', P .. 'running:' .. queue, '-inf', now)) do
  if tonumber(get(job, 'attempt')) < tonumber(attempts) then
    move(job, 'waiting')
  else
    redis.call('HSET', key(job), 'result', error)
    move(job, 'dead')
  end
end
local due = redis.call('ZRANGEBYSCORE', P .. 'waiting:' .. queue, '-inf', '+inf',
  'LIMIT', 0, limit)
for _, job in ipairs(due) do
  move(job, 'running', now + lease)
  local body, place = get(job, 'body', 'place')
  local held = token .. '-' .. place
  redis.call('HSET', key(job), 'token', held)
  claims[#claims + 1] = {{job, body, redis.call('HINCRBY', key(job), 'attempt', 1), held}}
end
return claims
"""
RENEW = f"""{_COMMON}
local held, until_then = {{}}, clock() + ARGV[1]
for i = 2, #ARGV, 2 do
  local queue, status, token = get(ARGV[i], 'queue', 'status', 'token')
  if status == 'running' and token == ARGV[i + 1] then
    redis.call('ZADD', P .. 'running:' .. queue, until_then, ARGV[i])
    held[#held + 1] = i / 2 - 1
  end
end
return held
"""
FINISH = f"""{_COMMON}
local job, result = unpack(ARGV)
local status = get(job, 'status')
if status ~= 'waiting' and status ~= 'running' then return 0 end
redis.call('HSET', key(job), 'result', result)
move(job, 'done')
return 1
"""
GIVE_BACK = f"""{_COMMON}
local job, token, error, delay, attempts = unpack(ARGV)
local status, held, attempt = get(job, 'status', 'token', 'attempt')
if status ~= 'running' or held ~= token then return end
if error == '' then
  redis.call('HINCRBY', key(job), 'attempt', -1)
elseif tonumber(attempt) >= tonumber(attempts) then
  redis.call('HSET', key(job), 'result', error)
  return move(job, 'dead')
end
move(job, 'waiting', tonumber(delay) > 0 and clock() + delay)
"""
CANCEL = f"""{_COMMON}
local group, from = unpack(ARGV)
local now, count = clock(), 0
local ids = redis.call('ZRANGEBYSCORE', P .. 'jobs:' .. group, from, '+inf', 'LIMIT', 0, {BATCH})
for _, id in ipairs(ids) do
  local job = group .. '\\n' .. id
  local queue, status = get(job, 'queue', 'status')
  local over = status == 'running'
    and tonumber(redis.call('ZSCORE', P .. 'running:' .. queue, job)) <= now
  if status == 'waiting' or over then
    move(job, 'cancelled')
    count = count + 1
  end
end
return {{#ids, count}}
"""
DEPTH = f"""{_COMMON}
local function size(set) return redis.call('ZCARD', P .. set .. ARGV[1]) end
return {{size('waiting:') + size('delayed:'), size('running:'), size('dead:')}}
"""
RESULTS = f"""{_COMMON}
local group, after, limit = unpack(ARGV)
local found = {{}}
local ids = redis.call('ZRANGEBYSCORE', P .. 'ended:' .. group, '(' .. after, '+inf',
  'LIMIT', 0, limit)
for i, id in ipairs(ids) do
  local position, status, result = get(group .. '\\n' .. id, 'position', 'status', 'result')
  found[i] = {{tonumber(position), id, status, result or '{{}}'}}
end
return found
"""
DEAD = f"""{_COMMON}
local queue, limit = unpack(ARGV)
local found = {{}}
local jobs = redis.call('ZRANGEBYSCORE', P .. 'dead:' .. queue, '-inf', '+inf', 'LIMIT', 0, limit)
for i, job in ipairs(jobs) do
  local body, attempt, token = get(job, 'body', 'attempt', 'token')
  found[i] = {{job, body, tonumber(attempt), token}}
end
return found
"""
REVIVE = f"""{_COMMON}
local group, from = unpack(ARGV)
local count = 0
local ids = redis.call('ZRANGEBYSCORE', P .. 'jobs:' .. group, from, '+inf', 'LIMIT', 0, {BATCH})
for _, id in ipairs(ids) do
  local job = group .. '\\n' .. id
  if get(job, 'status') == 'dead' then
    redis.call('HDEL', key(job), 'result')
    redis.call('HSET', key(job), 'attempt', 0)
    move(job, 'waiting')
    count = count + 1
  end
end
return {{#ids, count}}
"""
DROP = f"""{_COMMON}
local group = ARGV[1]
local ids = redis.call('ZRANGE', P .. 'jobs:' .. group, 0, {BATCH} - 1)
for _, id in ipairs(ids) do
  local job = group .. '\\n' .. id
  leave_sets(job, get(job, 'queue'))
  redis.call('DEL', key(job))
  redis.call('ZREM', P .. 'jobs:' .. group, id)
  redis.call('ZREM', P .. 'ended:' .. group, id)
end
if redis.call('EXISTS', P .. 'jobs:' .. group) == 0 then
  redis.call('DEL', P .. 'counts:' .. group)
end
return #ids
"""
