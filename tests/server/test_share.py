"""The share of slots that batches have: never more, fair within, one turn among those who wait."""

import asyncio

from server.batches.share import Share
from strategies.admission import Admission, Ticket


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_share_is_never_exceeded_and_never_nothing() -> None:
    whole = Admission(slots=10, per_request=10)
    share = Share(whole, 0.35)
    assert (share.slots, Share(whole, 0.01).slots, Share(whole, 1.0).slots) == (3, 1, 10)
    line, other = Ticket(), Ticket()
    assert await share.acquire(line, 8) == 3
    waiting = asyncio.create_task(share.acquire(other, 2))
    await settle()
    assert not waiting.done()
    assert (whole.running, share.running) == (3, 3)
    share.release(line, 1)
    assert await waiting == 1
    share.release(line, 2)
    share.release(other, 1)
    assert (whole.running, share.running, share.queued, whole.queued) == (0, 0, 0, 0)


async def test_the_bound_of_a_request_is_that_of_a_line_not_of_all_lines() -> None:
    whole = Admission(slots=8, per_request=2)
    share = Share(whole, 1.0)
    tickets = [Ticket() for _ in range(4)]
    assert [await share.acquire(ticket, 5) for ticket in tickets] == [2, 2, 2, 2]
    for ticket in tickets:
        share.release(ticket, 2)
    assert (whole.running, share.running) == (0, 0)


async def test_lines_have_one_turn_among_the_clients_who_wait() -> None:
    whole = Admission(slots=2, per_request=2)
    share = Share(whole, 1.0)
    held = Ticket()
    assert await whole.acquire(held, 2) == 2
    order: list[str] = []

    async def want(name: str, admission: Admission) -> None:
        await admission.acquire(Ticket(), 1)
        order.append(name)

    async with asyncio.TaskGroup() as group:
        for name in ("line 1", "line 2"):
            group.create_task(want(name, share))
        await settle()
        for name in ("client 1", "client 2"):
            group.create_task(want(name, whole))
        await settle()
        for _ in range(4):
            whole.running -= 1  # a slot that nobody here gives back twice
            whole._serve()
            await settle()
    assert order == ["line 1", "client 1", "client 2", "line 2"]


async def test_giving_up_while_waiting_leaves_no_slot_behind() -> None:
    whole = Admission(slots=2, per_request=2)
    share = Share(whole, 1.0)
    held = Ticket()
    assert await whole.acquire(held, 2) == 2
    in_whole = asyncio.create_task(share.acquire(Ticket(), 2))
    await settle()
    in_share = asyncio.create_task(share.acquire(Ticket(), 1))
    await settle()
    for task in (in_share, in_whole):
        task.cancel()
        await asyncio.wait([task])
    assert (share.running, share.queued, whole.queued) == (0, 0, 0)
    granted = asyncio.create_task(share.acquire(Ticket(), 2))
    await settle()
    whole.release(held, 2)  # granted in the moment of the cancellation
    granted.cancel()
    await asyncio.wait([granted])
    assert (whole.running, share.running, share.queued) == (0, 0, 0)
