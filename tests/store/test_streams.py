"""What every store promises of streams."""

import asyncio
import time

from server.store.base import Store


def numbers(items: object) -> list[int]:
    return [item.number for item in items]  # type: ignore[attr-defined]


async def test_events_are_numbered_from_one_and_read_by_others(store: Store, peer: Store) -> None:
    assert await store.streams.append("a", [{"n": 1}, {"text": "½\ud800"}]) == 2
    assert await peer.streams.append("a", [{"n": 3}]) == 3
    assert await store.streams.read("a") == [(1, {"n": 1}), (2, {"text": "½\ud800"}), (3, {"n": 3})]


async def test_reading_goes_on_where_it_was(store: Store) -> None:
    await store.streams.append("a", [{"n": n} for n in range(1, 11)])
    assert numbers(await store.streams.read("a", after=7)) == [8, 9, 10]
    assert numbers(await store.streams.read("a", after=2, limit=3)) == [3, 4, 5]
    assert await store.streams.read("a", after=10) == []
    assert await store.streams.read("a", limit=0) == []


async def test_an_unknown_stream_is_empty(store: Store) -> None:
    assert await store.streams.read("a") == []
    assert await store.streams.append("a", []) == 0
    assert not await store.streams.delete("a")


async def test_nothing_appended_changes_nothing(store: Store) -> None:
    await store.streams.append("a", [{"n": 1}])
    assert await store.streams.append("a", []) == 1
    assert numbers(await store.streams.read("a")) == [1]


async def test_what_is_appended_together_is_seen_together(store: Store, peer: Store) -> None:
    seen = set()

    async def look() -> None:
        while (found := len(await peer.streams.read("a"))) < 60:
            seen.add(found)

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        for _ in range(20):
            group.create_task(store.streams.append("a", [{}, {}, {}]))
    assert not [count for count in seen if count % 3]
    assert numbers(await store.streams.read("a")) == list(range(1, 61))


async def test_a_reader_waits_no_longer_than_asked(store: Store) -> None:
    start = time.monotonic()
    assert await store.streams.read("a", wait_s=0.2) == []
    assert 0.19 <= time.monotonic() - start < 1.0


async def test_an_append_ends_the_wait(store: Store, peer: Store) -> None:
    await store.streams.append("a", [{"n": 1}])
    for writer in (store, peer):
        last = len(await store.streams.read("a"))
        reading = asyncio.create_task(store.streams.read("a", after=last, wait_s=10))
        await asyncio.sleep(0.05)
        await writer.streams.append("other", [{}])
        assert not reading.done()
        start = time.monotonic()
        await writer.streams.append("a", [{"n": last + 1}])
        assert await reading == [(last + 1, {"n": last + 1})]
        assert time.monotonic() - start < 1.0


async def test_those_who_wait_do_not_keep_others(store: Store) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(store.streams.read(f"s{number % 50}", wait_s=30))
            for number in range(150)
        ]
        await asyncio.sleep(0.3)
        start = time.monotonic()
        for number in range(50):
            await store.streams.append(f"s{number}", [{"n": number}])
        assert time.monotonic() - start < 2.0
    assert [each.result() for each in waiting] == [[(1, {"n": n % 50})] for n in range(150)]


async def test_a_reader_can_be_cancelled(store: Store) -> None:
    reading = asyncio.create_task(store.streams.read("a", wait_s=30))
    await asyncio.sleep(0.05)
    reading.cancel()
    await asyncio.wait([reading], timeout=1)
    assert reading.cancelled()
    assert await store.streams.append("a", [{}]) == 1


async def test_a_stream_that_is_deleted_begins_anew(store: Store) -> None:
    await store.streams.append("a", [{"n": 1}, {"n": 2}])
    await store.streams.append("b", [{}])
    assert await store.streams.delete("a")
    assert await store.streams.read("a") == []
    assert await store.streams.append("a", [{"n": 3}]) == 1
    assert await store.streams.read("a") == [(1, {"n": 3})]
    assert numbers(await store.streams.read("b")) == [1]


async def test_a_stream_expires_as_a_whole_as_it_was_last_told(store: Store) -> None:
    await store.streams.append("short", [{}], expires_s=60)
    await store.streams.append("short", [{}], expires_s=0.4)
    await store.streams.append("short", [{}])
    await store.streams.append("long", [{}], expires_s=0.4)
    await store.streams.append("long", [{}], expires_s=60)
    await asyncio.sleep(0.45)
    assert await store.streams.read("short") == []
    assert not await store.streams.delete("short")
    assert numbers(await store.streams.read("long")) == [1, 2]
    assert await store.streams.append("short", [{"new": True}]) == 1
    await store.sweep()
    assert await store.streams.read("short") == [(1, {"new": True})]
