"""Jobs in Redis; what it does is in `job_scripts`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from secrets import token_hex
from typing import Any

from server.store.jobs import LEASE_OVER, Claim, Counts, Finished, Job
from server.store.redis import job_scripts as lua
from server.store.redis.client import PREFIX, Client, Script, milliseconds
from server.store.text import read_name, read_value, write_name, write_value
from verifiers.types import JSONObject

ENQUEUE_BYTES = 1 << 20
RESULTS_ROWS = 100
"""So many results are read at once: others need not wait."""
_STATUSES = ("waiting", "running", "done", "dead", "cancelled")


class RedisJobs:
    """Hands out jobs and keeps their results."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._enqueue = client.script(lua.ENQUEUE)
        self._claim = client.script(lua.CLAIM)
        self._renew = client.script(lua.RENEW, again=True)
        self._finish = client.script(lua.FINISH)
        self._give_back = client.script(lua.GIVE_BACK, again=True)
        self._cancel = client.script(lua.CANCEL)
        self._depth = client.script(lua.DEPTH, again=True)
        self._results = client.script(lua.RESULTS, again=True)
        self._dead = client.script(lua.DEAD, again=True)
        self._revive = client.script(lua.REVIVE)
        self._drop = client.script(lua.DROP, again=True)

    async def enqueue(self, queue: str, group: str, jobs: Sequence[Job]) -> int:
        """Add jobs behind those of their group; return how many of them were new."""
        new = 0
        for some in _in_parts(jobs):
            new += await self._enqueue([_counts(group)], queue, write_name(group), *some)
        return new

    async def claim(
        self, queue: str, *, limit: int = 1, lease_s: float = 30.0, attempts: int = 3
    ) -> list[Claim]:
        """Take waiting jobs that are due, the oldest first, and those whose lease is over."""
        token, why = token_hex(8), write_value({"error": LEASE_OVER})
        rows: list[Any] = await self._claim(
            [f"{PREFIX}waiting:{queue}"],
            *(queue, limit, milliseconds(lease_s), attempts, token, why),
        )
        return [_as_claim(queue, *row) for row in rows]

    async def renew(self, claims: Sequence[Claim], lease_s: float = 30.0) -> list[Claim]:
        """Prolong leases; return the claims that still hold."""
        if not claims:
            return []
        told = [word for claim in claims for word in (_job(claim), claim.token)]
        group = claims[0].group
        held = await self._renew([_counts(group)], milliseconds(lease_s), *told)
        return [claims[place] for place in held]

    async def finish(self, claim: Claim, result: JSONObject) -> bool:
        """Keep a job's result, if it has not ended; say whether it was kept."""
        told = _job(claim), write_value(result)
        return bool(await self._finish([_counts(claim.group)], *told))

    async def give_back(
        self,
        claim: Claim,
        *,
        error: str | None = None,
        delay_s: float = 0.0,
        attempts: int = 3,
    ) -> None:
        """Make a job wait again, for another or after `delay_s`."""
        why = "" if error is None else write_value({"error": error})
        delay = 0 if delay_s <= 0 else milliseconds(delay_s)
        told = _job(claim), claim.token, why, delay, attempts
        await self._give_back([_counts(claim.group)], *told)

    async def cancel(self, group: str) -> int:
        """Cancel a group's waiting jobs; return how many there were."""
        return await _throughout(self._cancel, group)

    async def counts(self, group: str) -> Counts:
        """Count a group's jobs by state."""
        row = await self._client.read("HMGET", _counts(group), *_STATUSES)
        return Counts(*(int(count or 0) for count in row))

    async def depth(self, queue: str) -> Counts:
        """Count a queue's jobs that wait, run, or are dead, of all groups; no others."""
        waiting, running, dead = await self._depth([f"{PREFIX}waiting:{queue}"], queue)
        return Counts(waiting=waiting, running=running, dead=dead)

    async def results(self, group: str, *, after: int = -1, limit: int = 1_000) -> list[Finished]:
        """List ended jobs behind the position `after`, in their order."""
        found: list[Finished] = []
        while len(found) < limit:
            some = min(RESULTS_ROWS, limit - len(found))
            rows = await self._results([_counts(group)], write_name(group), after, some)
            found += (
                Finished(position, read_name(job_id), status, read_value(result))
                for position, job_id, status, result in rows
            )
            if len(rows) < some:
                break
            after = found[-1].position
        return found

    async def dead(self, queue: str, *, limit: int = 100) -> list[Claim]:
        """List dead jobs, as they were last claimed."""
        rows: list[Any] = await self._dead([f"{PREFIX}dead:{queue}"], queue, limit)
        return [_as_claim(queue, *row) for row in rows]

    async def revive(self, group: str) -> int:
        """Make a group's dead jobs wait again, with all their attempts; return how many."""
        return await _throughout(self._revive, group)

    async def drop(self, group: str) -> None:
        """Forget a group: its jobs, in whatever state, and their results."""
        while await self._drop([_counts(group)], write_name(group)):
            pass


async def _throughout(script: Script, group: str) -> int:
    """Run a script over all jobs of a group, by their positions; return its counts' sum."""
    total, start = 0, 0
    seen: int
    count: int
    while True:
        seen, count = await script([_counts(group)], write_name(group), start)
        total += count
        start += seen
        if seen < lua.BATCH:
            return total


def _in_parts(jobs: Sequence[Job]) -> Iterator[list[str]]:
    """Write jobs as ids and bodies, in parts that do not keep Redis from others for long."""
    part, size = list[str](), 0
    for job in jobs:
        body = write_value(job.body)
        part += (write_name(job.id), body)
        size += len(body)
        if size >= ENQUEUE_BYTES or len(part) >= 2 * lua.BATCH:
            yield part
            part, size = [], 0
    if part:
        yield part


def _counts(group: str) -> str:
    return f"{PREFIX}counts:{write_name(group)}"


def _job(claim: Claim) -> str:
    return f"{write_name(claim.group)}\n{write_name(claim.job.id)}"


def _as_claim(queue: str, job: str, body: str, attempt: int, token: str) -> Claim:
    group, _, job_id = job.partition("\n")
    return Claim(queue, read_name(group), Job(read_name(job_id), read_value(body)), attempt, token)
