"""A crew on a real store: whatever happens to its work, jobs end once or wait for another."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from server.crew import Again, Crew, Done, Terms, Verdict
from server.store.base import StoreUnavailable
from server.store.jobs import Claim, Job, Jobs
from server.store.sqlite.store import SQLiteStore
from verifiers.types import JSONObject

TERMS = Terms("q", lease_s=0.3, attempts=3, poll_s=0.01, backoff_s=0.01)

Work = Callable[[Claim], Coroutine[Any, Any, Verdict]]


@pytest.fixture
async def jobs() -> AsyncIterator[Jobs]:
    store = SQLiteStore.in_memory()
    yield store.jobs
    await store.aclose()


@asynccontextmanager
async def crew(jobs: Jobs, work: Work, room: int = 4, terms: Terms = TERMS) -> AsyncIterator[None]:
    task = asyncio.create_task(Crew(jobs, terms, work, lambda held: room - held).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


async def enqueue(jobs: Jobs, count: int) -> None:
    await jobs.enqueue("q", "g", [Job(str(number), {"n": number}) for number in range(count)])


async def until_ended(jobs: Jobs, count: int) -> None:
    async with asyncio.timeout(10):
        while (await jobs.counts("g")).ended < count:
            await asyncio.sleep(0.01)


async def test_jobs_are_done_no_more_at_once_than_there_is_room(jobs: Jobs) -> None:
    running, most = 0, 0

    async def work(claim: Claim) -> Verdict:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        return Done({"twice": 2 * claim.job.body["n"]})

    await enqueue(jobs, 30)
    async with crew(jobs, work):
        await until_ended(jobs, 30)
    assert [each.result["twice"] for each in await jobs.results("g")] == [*range(0, 60, 2)]
    assert most == 4


async def test_long_work_keeps_its_lease(jobs: Jobs) -> None:
    started: list[int] = []

    async def work(claim: Claim) -> Verdict:
        started.append(claim.attempt)
        await asyncio.sleep(3 * TERMS.lease_s)
        return Done({})

    await enqueue(jobs, 3)
    async with crew(jobs, work), crew(jobs, work):
        await until_ended(jobs, 3)
    assert started == [1, 1, 1]


async def test_work_stops_when_its_claim_is_anothers(jobs: Jobs) -> None:
    stopped, taken = asyncio.Event(), asyncio.Event()

    async def work(claim: Claim) -> Verdict:
        taken.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise
        raise AssertionError("it was not stopped")

    await enqueue(jobs, 1)
    async with crew(jobs, work):
        await taken.wait()
        await jobs.cancel("g")  # running jobs go on
        assert not stopped.is_set()
        await jobs.drop("g")
        async with asyncio.timeout(5):
            await stopped.wait()
    assert (await jobs.counts("g")).total == 0


async def test_what_the_end_interrupts_waits_for_another_and_costs_no_attempt(jobs: Jobs) -> None:
    taken = asyncio.Event()

    async def work(claim: Claim) -> Verdict:
        taken.set()
        await asyncio.sleep(60)
        raise AssertionError("it was not stopped")

    await enqueue(jobs, 3)
    for _ in range(5):
        taken.clear()
        async with crew(jobs, work):
            await taken.wait()
    assert (await jobs.counts("g")).waiting == 3
    [claim] = await jobs.claim("q")
    assert claim.attempt == 1


async def test_errors_are_tried_again_until_the_last_attempt(jobs: Jobs) -> None:
    attempts: list[int] = []

    async def work(claim: Claim) -> Verdict:
        attempts.append(claim.attempt)
        return Again(0.01, "away")

    await enqueue(jobs, 1)
    async with crew(jobs, work):
        await until_ended(jobs, 1)
    [dead] = await jobs.results("g")
    assert (attempts, dead.status, dead.result) == ([1, 2, 3], "dead", {"error": "away"})


async def test_a_fault_of_ours_costs_attempts_and_nothing_else(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(claim: Claim) -> Verdict:
        if claim.job.id == "1":
            raise RuntimeError("a fault")
        return Done({})

    await enqueue(jobs, 3)
    async with crew(jobs, work):
        await until_ended(jobs, 3)
    ended = {each.id: (each.status, each.result) for each in await jobs.results("g")}
    assert ended["1"] == ("dead", {"error": "the server failed"})
    assert ended["0"] == ended["2"] == ("done", {})
    assert caplog.text.count("RuntimeError: a fault") == 3


async def test_waiting_without_an_error_costs_no_attempt(jobs: Jobs) -> None:
    attempts: list[int] = []

    async def work(claim: Claim) -> Verdict:
        attempts.append(claim.attempt)
        return Again(0.01) if len(attempts) < 10 else Done({})

    await enqueue(jobs, 1)
    async with crew(jobs, work):
        await until_ended(jobs, 1)
    assert attempts == [1] * 10


class Away:
    """A store's jobs, which do not answer while `away` is set."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.away = False
        self.refused: list[str] = []

    def _check(self, name: str) -> None:
        if self.away:
            self.refused.append(name)
            raise StoreUnavailable

    async def claim(self, *args: Any, **options: Any) -> list[Claim]:
        self._check("claim")
        return await self._jobs.claim(*args, **options)

    async def renew(self, claims: Sequence[Claim], lease_s: float = 30.0) -> list[Claim]:
        self._check("renew")
        return await self._jobs.renew(claims, lease_s)

    async def finish(self, claim: Claim, result: JSONObject) -> bool:
        self._check("finish")
        return await self._jobs.finish(claim, result)

    async def give_back(self, claim: Claim, **options: Any) -> None:
        self._check("give_back")
        await self._jobs.give_back(claim, **options)


async def test_a_result_waits_while_the_store_is_away(jobs: Jobs) -> None:
    away, worked = Away(jobs), 0

    async def work(claim: Claim) -> Verdict:
        nonlocal worked
        worked += 1
        away.away = away.away or worked == 1
        await asyncio.sleep(1.5 * TERMS.lease_s)
        return Done({"kept": True})

    await enqueue(jobs, 1)
    async with crew(away, work):  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            while away.refused.count("finish") < 3:
                await asyncio.sleep(0.01)
        assert {"claim", "renew", "finish"} <= set(away.refused)
        away.away = False
        await until_ended(jobs, 1)
    [ended] = await jobs.results("g")
    assert ended.result == {"kept": True}
    assert worked <= 2  # its lease was over by then: who claims first decides


async def test_work_that_needs_the_store_waits_for_it(jobs: Jobs) -> None:
    calls: list[int] = []

    async def work(claim: Claim) -> Verdict:
        calls.append(claim.attempt)
        if len(calls) < 6:
            raise StoreUnavailable
        return Done({})

    await enqueue(jobs, 1)
    async with crew(jobs, work):
        await until_ended(jobs, 1)
    assert calls == [1] * 6


def test_pauses_double_up_to_five_minutes() -> None:
    terms = Terms("q", 30, 8, 1, backoff_s=2)
    for attempt, longest in ((1, 2), (2, 4), (5, 32), (9, 300), (500, 300)):
        drawn = [terms.pause(attempt) for _ in range(50)]
        assert longest / 2 <= min(drawn) < max(drawn) <= longest
