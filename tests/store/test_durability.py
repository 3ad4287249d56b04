"""What a call that returned has done outlives kill -9: of us, and of Redis."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from server.store.base import Store, StoreUnavailable, open_store
from server.store.jobs import Counts, Job
from server.store.limits import Charge
from tests.store.serving import RedisServer
from tests.store.writer import write_round

pytestmark = pytest.mark.slow


def write_until_killed(url: str, name: str, rounds: int) -> int:
    """Return the last round that the process was told is kept."""
    command = [sys.executable, "-m", "tests.store.writer", url, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(rounds):
            assert process.stdout.readline().strip(), "it ended by itself"
        process.kill()
        last = process.stdout.read().split()
    return int(last[-1]) if last else rounds - 1


async def check(store: Store, name: str, last: int) -> None:
    """Check that everything up to a round is there, and of the next at most what was begun."""
    for number in range(last + 1):
        record = await store.records.get("written", f"{name}-{number}")
        assert record is not None
        assert record.value["number"] == number
        blob = b"".join([piece async for piece in store.blobs.read(f"{name}-{number}")])
        assert blob == f"{name} {number} ".encode() * 100
    items = await store.streams.read(name, limit=last + 10)
    assert [each.value["number"] for each in items] == list(range(len(items)))
    results = await store.jobs.results(name, limit=last + 10)
    assert [each.result["number"] for each in results] == list(range(len(results)))
    verdict = await store.limits.charge([Charge(name, 0, 1 << 40, 3_600)])
    used = (1 << 40) - verdict.levels[0].remaining
    for found in (len(items), len(results), used, (await store.jobs.counts(name)).total):
        assert last + 1 <= found <= last + 2


@pytest.mark.parametrize("kind", ["file", "redis"])
async def test_nothing_is_lost_when_the_process_is_killed(url: str) -> None:
    for name, rounds in (("one", 5), ("two", 40), ("three", 100)):
        last = await asyncio.to_thread(write_until_killed, url, name, rounds)
        assert last >= rounds - 1
        async with aclosing(await open_store(url)) as store:
            await check(store, name, last)


async def test_two_processes_write_the_same_file_while_it_is_read(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'store.sqlite'}"
    async with aclosing(await open_store(url)) as store, asyncio.TaskGroup() as group:
        writing = [
            group.create_task(asyncio.to_thread(write_until_killed, url, name, 100))
            for name in ("one", "two")
        ]
        ours = 0
        while not all(each.done() for each in writing):
            await write_round(store, "ours", ours)
            ours += 1
        for name, each in zip(("one", "two"), writing, strict=True):
            await check(store, name, each.result())
        await check(store, "ours", ours - 1)


async def test_redis_that_is_killed_loses_nothing_and_heals(redis_server: RedisServer) -> None:
    redis_server.empty()
    kept: list[int] = []
    async with aclosing(await open_store(redis_server.url)) as store:

        async def write(number: int) -> None:
            while True:
                with suppress(StoreUnavailable):
                    await store.records.put("written", f"{number}", {"number": number})
                    await store.jobs.enqueue("q", "g", [Job(f"{number}", {})])
                    kept.append(number)
                    return
                await asyncio.sleep(0.02)

        async def kill() -> None:
            for _ in range(5):
                await asyncio.sleep(0.1)
                redis_server.kill()
                await asyncio.sleep(0.02)  # what was answered before is read
                found = len(kept)
                await asyncio.sleep(0.05)
                assert len(kept) == found
                await asyncio.to_thread(redis_server.start)

        killing = asyncio.create_task(kill())
        number = 0
        while not killing.done():
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(write(number))
                    number += 1
        await killing
        assert number > 50
        for each in kept:
            record = await store.records.get("written", f"{each}")
            assert record is not None
        assert await store.jobs.counts("g") == Counts(waiting=number)


async def test_redis_away_is_told_within_two_seconds(redis_server: RedisServer) -> None:
    async with aclosing(await open_store(redis_server.url)) as store:
        await store.check()
        waiting = asyncio.create_task(store.streams.read("s", wait_s=60))
        await asyncio.sleep(0.1)
        redis_server.kill()
        for call in (waiting, store.check(), store.records.get("a", "b"), store.jobs.counts("g")):
            start = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await call
            assert time.monotonic() - start < 0.5, "refused connections are known at once"
        redis_server.start()
        await store.check()
        assert await store.streams.read("s") == []


async def test_redis_that_hangs_is_told_within_two_seconds(redis_server: RedisServer) -> None:
    async with aclosing(await open_store(redis_server.url)) as store:
        await store.check()
        follower = asyncio.create_task(store.streams.read("s", wait_s=60))
        await asyncio.sleep(0.1)
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            calls = [asyncio.create_task(store.records.get("a", f"{n}")) for n in range(60)]
            done, late = await asyncio.wait([follower, *calls], timeout=2.0)
            took = time.monotonic() - start
            assert not late, (took, late)
            assert {type(each.exception()) for each in done} == {StoreUnavailable}
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
        await store.check()
        assert await store.records.get("a", "b") is None
