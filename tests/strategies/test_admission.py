"""Admission: bounded, fair between requests, and never lossy."""

from __future__ import annotations

import asyncio
import random

import pytest

from strategies.admission import Admission, Ticket
from verifiers.errors import Overloaded


async def test_a_wave_is_granted_whole_where_there_is_room() -> None:
    admission = Admission(slots=8)
    assert await admission.acquire(Ticket(), 5) == 5
    assert await admission.acquire(Ticket(), 5) == 3
    assert (admission.running, admission.queued) == (8, 0)


async def test_one_request_is_bounded() -> None:
    admission = Admission(slots=8, per_request=3)
    assert await admission.acquire(Ticket(), 5) == 3
    assert await admission.acquire(Ticket(), 5) == 3


async def test_a_single_passes_a_best_of_64() -> None:
    admission = Admission(slots=4)
    wide, single = Ticket(), Ticket()
    order: list[str] = []

    async def draw(ticket: Ticket, wanted: int, name: str) -> None:
        while wanted:
            granted = await admission.acquire(ticket, wanted)
            order.extend([name] * granted)
            wanted -= granted

    work = [asyncio.create_task(draw(wide, 64, "wide"))]
    await asyncio.sleep(0)
    work.append(asyncio.create_task(draw(single, 1, "single")))
    await asyncio.sleep(0)
    while any(not task.done() for task in work):
        admission.release(wide)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order.index("single") <= 5
    assert len(order) == 65


async def test_a_full_queue_turns_new_requests_away_and_serves_those_that_began() -> None:
    admission = Admission(slots=1, queue_limit=1)
    first = Ticket()
    await admission.acquire(first, 1)
    waiting = asyncio.create_task(admission.acquire(Ticket(), 1))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as turned_away:
        await admission.acquire(Ticket(), 1)
    assert turned_away.value.retry_after >= 1
    again = asyncio.create_task(admission.acquire(first, 1))
    await asyncio.sleep(0)
    admission.release(first)
    assert await waiting == 1
    admission.release(first)
    assert await again == 1


async def test_no_slot_is_lost_whatever_is_cancelled_and_when() -> None:
    rng = random.Random(3)
    admission = Admission(slots=5, per_request=3, queue_limit=1_000)

    async def client() -> None:
        ticket = Ticket()
        for _ in range(rng.randint(1, 4)):
            granted = await admission.acquire(ticket, rng.randint(1, 6))
            try:
                await asyncio.sleep(rng.random() * 0.002)
            finally:
                admission.release(ticket, granted)

    clients = [asyncio.create_task(client()) for _ in range(200)]
    while not all(each.done() for each in clients):
        rng.choice(clients).cancel()
        assert admission.running <= 5
        await asyncio.sleep(0.0005)
    assert (admission.running, admission.queued) == (0, 0)
    assert sum(not each.cancelled() for each in clients) > 20
