"""Batches across requests: when they start, who fails, who is taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.batching import Batcher
from verifiers.errors import VerifierError, VerifierUnavailable

BAD = -1


class Worker:
    """Doubles numbers, a batch at a time; BAD fails its batch."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.batches: list[list[int]] = []
        self.cancelled = 0

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if BAD in items:
            raise VerifierError("bad")
        return [2 * item for item in items]


async def test_requests_at_the_same_time_are_one_batch() -> None:
    worker = Worker()
    batcher = Batcher(worker, size=8, wait_s=0.02)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(batcher.run([place, place + 10])) for place in range(3)]
    assert [task.result() for task in tasks] == [[0, 20], [2, 22], [4, 24]]
    assert worker.batches == [[0, 10, 1, 11, 2, 12]]


async def test_a_full_batch_waits_for_nothing() -> None:
    worker = Worker()
    batcher = Batcher(worker, size=2, wait_s=60.0)
    async with asyncio.timeout(5):
        assert await batcher.run([1, 2, 3, 4]) == [2, 4, 6, 8]
    assert worker.batches == [[1, 2], [3, 4]]
    await batcher.aclose()


async def test_what_waited_for_room_goes_as_soon_as_there_is_some() -> None:
    worker = Worker(delay=0.05)
    batcher = Batcher(worker, size=2, wait_s=60.0)
    async with asyncio.timeout(5):
        assert await batcher.run([1, 2, 3]) == [2, 4, 6]
    assert worker.batches == [[1, 2], [3]]
    await batcher.aclose()


@given(st.lists(st.lists(st.integers(0, 99), max_size=9), max_size=6), st.integers(1, 7))
def test_order_is_kept_and_nothing_is_lost(requests: list[list[int]], size: int) -> None:
    async def run() -> tuple[list[list[int]], Worker]:
        worker = Worker()
        batcher = Batcher(worker, size=size, wait_s=0.0, parallel=2)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(batcher.run(each)) for each in requests]
        return [task.result() for task in tasks], worker

    results, worker = asyncio.run(run())
    assert results == [[2 * item for item in each] for each in requests]
    assert all(len(batch) <= size for batch in worker.batches)
    assert sum(map(len, worker.batches)) == sum(map(len, requests))


async def test_one_bad_item_fails_its_own_request_alone() -> None:
    worker = Worker()
    batcher = Batcher(worker, size=8, wait_s=0.01)
    good, bad, other = await asyncio.gather(  # noqa: TID251 (all outcomes are wanted)
        batcher.run([1, 2]), batcher.run([3, BAD, 4]), batcher.run([5]), return_exceptions=True
    )
    assert (good, other) == ([2, 4], [10])
    assert isinstance(bad, VerifierError)
    assert worker.batches[0] == [1, 2, 3, BAD, 4, 5]


async def test_one_that_is_away_is_asked_once() -> None:
    calls: list[int] = []

    async def away(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        raise VerifierUnavailable("away")

    batcher = Batcher(away, size=8, wait_s=0.0)
    with pytest.raises(VerifierUnavailable):
        await batcher.run([1, 2, 3])
    assert calls == [3]


async def test_a_fault_of_ours_reaches_who_waits() -> None:
    async def wrong(items: Sequence[int]) -> list[int]:
        raise ZeroDivisionError

    batcher = Batcher(wrong, size=8, wait_s=0.0)
    with pytest.raises(ZeroDivisionError):
        await batcher.run([1, 2])


async def test_who_is_cancelled_takes_its_items_along() -> None:
    worker = Worker()
    batcher = Batcher(worker, size=8, wait_s=0.05)
    gone, stays = asyncio.create_task(batcher.run([1, 2])), asyncio.create_task(batcher.run([3]))
    await asyncio.sleep(0.01)
    gone.cancel()
    assert await stays == [6]
    assert worker.batches == [[3]]


async def test_a_batch_that_nobody_waits_for_is_cancelled() -> None:
    worker = Worker(delay=60.0)
    batcher = Batcher(worker, size=2, wait_s=0.0)
    gone = asyncio.create_task(batcher.run([1, 2]))
    await asyncio.sleep(0.02)
    gone.cancel()
    await asyncio.sleep(0.02)
    assert worker.cancelled == 1
    worker.delay = 0.0
    assert await batcher.run([3]) == [6]


async def test_closing_fails_who_waits() -> None:
    worker = Worker(delay=60.0)
    batcher = Batcher(worker, size=1, wait_s=0.0)
    waiting = [asyncio.create_task(batcher.run([place])) for place in range(3)]
    await asyncio.sleep(0.02)
    await batcher.aclose()
    for task in waiting:
        with pytest.raises(VerifierUnavailable):
            await task
    assert worker.batches == [[0]]
