"""What every store promises of records."""

import asyncio
from itertools import pairwise

import pytest

from server.store.base import Store
from server.store.records import Record

ODD = ("", "a:b", "a\nb", "{x}", 'quo"te', "back\\slash", "née", "\x00", "\ud800", "🦊", "*", "%s")
"""Names that clients may send: every one is another than all others."""


async def read(store: Store, record_id: str, kind: str = "batch") -> Record:
    record = await store.records.get(kind, record_id)
    assert record is not None
    return record


async def ids(store: Store, kind: str = "batch", **which: object) -> list[str]:
    return [each.id for each in await store.records.page(kind, **which)]  # type: ignore[arg-type]


async def test_what_is_added_is_read_by_others(store: Store, peer: Store) -> None:
    value = {"n": 1, "text": "½ \ud800 \x00", "deep": [{"a": None}], "f": 0.1}
    assert await store.records.add("batch", "a", value, owner="ann")
    record = await read(peer, "a")
    assert (record.id, record.value, record.owner) == ("a", value, "ann")


async def test_kinds_are_apart(store: Store) -> None:
    assert await store.records.add("batch", "a", {"n": 1})
    assert await store.records.add("file", "a", {"n": 2})
    assert (await read(store, "a")).value == {"n": 1}
    assert (await read(store, "a", "file")).value == {"n": 2}
    assert await store.records.delete("file", "a")
    assert await store.records.get("file", "a") is None
    assert await store.records.get("batch", "a") is not None


async def test_an_id_is_added_once(store: Store) -> None:
    assert await store.records.add("batch", "a", {"n": 1})
    assert not await store.records.add("batch", "a", {"n": 2}, owner="eve")
    record = await read(store, "a")
    assert (record.value, record.owner) == ({"n": 1}, "")


async def test_of_many_that_add_one_wins(store: Store, peer: Store) -> None:
    async with asyncio.TaskGroup() as group:
        tries = [
            group.create_task(each.records.add("batch", "a", {"n": n}))
            for n in range(20)
            for each in (store, peer)
        ]
    assert sum(each.result() for each in tries) == 1


async def test_putting_keeps_the_time_and_place_and_takes_the_owner(store: Store) -> None:
    for name in "abc":
        await store.records.put("batch", name, {"n": 1}, owner="ann")
    before = await read(store, "b")
    await asyncio.sleep(0.002)
    await store.records.put("batch", "b", {"n": 2}, owner="bob")
    after = await read(store, "b")
    assert (after.value, after.owner, after.created_at) == ({"n": 2}, "bob", before.created_at)
    assert after.version > before.version
    assert await ids(store) == ["c", "b", "a"]
    assert await ids(store, owner="ann") == ["c", "a"]
    assert await ids(store, owner="bob") == ["b"]


async def test_replacing_asks_for_the_newest(store: Store, peer: Store) -> None:
    await store.records.add("batch", "a", {"n": 1}, owner="ann")
    first = await read(store, "a")
    assert await peer.records.replace("batch", first, {"n": 2})
    assert not await store.records.replace("batch", first, {"n": 3})
    second = await read(store, "a")
    assert (second.value, second.owner, second.created_at) == ({"n": 2}, "ann", first.created_at)
    assert second.version > first.version
    assert await store.records.replace("batch", second, {"n": 4})


async def test_nobody_replaces_another_record_of_the_same_id(store: Store) -> None:
    await store.records.add("batch", "a", {"n": 1})
    old = await read(store, "a")
    await store.records.delete("batch", "a")
    assert not await store.records.replace("batch", old, {"n": 2})
    await store.records.add("batch", "a", {"n": 3})
    assert not await store.records.replace("batch", old, {"n": 2})
    assert (await read(store, "a")).value == {"n": 3}


async def test_counting_by_replacing_loses_nothing(store: Store, peer: Store) -> None:
    await store.records.add("batch", "a", {"n": 0})

    async def count(by: Store) -> None:
        while True:
            record = await read(by, "a")
            if await by.records.replace("batch", record, {"n": record.value["n"] + 1}):
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(count(store))
            group.create_task(count(peer))
    assert (await read(store, "a")).value == {"n": 20}


async def test_deleting(store: Store) -> None:
    assert not await store.records.delete("batch", "a")
    await store.records.add("batch", "a", {}, owner="ann")
    assert await store.records.delete("batch", "a")
    assert await store.records.get("batch", "a") is None
    assert await ids(store) == await ids(store, owner="ann") == []


async def test_pages_go_from_the_newest_to_the_oldest(store: Store) -> None:
    names = [f"n{number}" for number in range(7)]
    for name in names:
        await store.records.add("batch", name, {}, owner="ann" if name in "n1 n4" else "bob")
    assert await ids(store) == names[::-1]
    assert await ids(store, limit=3) == ["n6", "n5", "n4"]
    assert await ids(store, limit=3, after="n4") == ["n3", "n2", "n1"]
    assert await ids(store, owner="ann") == ["n4", "n1"]
    assert await ids(store, owner="ann", after="n4") == ["n1"]
    assert await ids(store, owner="nobody") == await ids(store, "file") == []
    times = [each.created_at for each in await store.records.page("batch")]
    assert all(newer >= older for newer, older in pairwise(times))


async def test_an_after_that_is_gone_gives_nothing(store: Store) -> None:
    for name in "abc":
        await store.records.add("batch", name, {}, owner="ann")
    await store.records.delete("batch", "b")
    assert await ids(store, after="b") == await ids(store, after="") == []
    assert await ids(store, owner="bob", after="c") == []


async def test_what_has_expired_is_gone(store: Store) -> None:
    await store.records.add("batch", "short", {"n": 1}, owner="ann", expires_s=0.4)
    await store.records.put("batch", "long", {}, owner="ann", expires_s=60)
    old = await read(store, "short")
    assert await ids(store) == ["long", "short"]
    await asyncio.sleep(0.45)
    assert await store.records.get("batch", "short") is None
    assert await ids(store) == await ids(store, owner="ann") == ["long"]
    assert await ids(store, after="short") == []
    assert not await store.records.replace("batch", old, {"n": 2})
    assert not await store.records.delete("batch", "short")
    assert await store.records.add("batch", "short", {"n": 3}, owner="bob")
    new = await read(store, "short")
    assert new.created_at > old.created_at
    assert await ids(store) == ["short", "long"]
    assert await ids(store, owner="ann") == ["long"]
    assert await ids(store, owner="ann", after="short") == []


async def test_time_is_kept_by_replacing_and_told_anew_by_putting(store: Store) -> None:
    for name in ("kept", "prolonged", "freed"):
        await store.records.add("batch", name, {}, expires_s=0.4)
    assert await store.records.replace("batch", await read(store, "kept"), {"n": 1})
    assert await store.records.replace(
        "batch", await read(store, "prolonged"), {"n": 1}, expires_s=60
    )
    await store.records.put("batch", "freed", {"n": 1})
    await asyncio.sleep(0.45)
    assert await ids(store) == ["freed", "prolonged"]


async def test_sweeping_takes_what_has_expired_and_leaves_the_rest(store: Store) -> None:
    for number in range(5):
        await store.records.add("batch", f"gone{number}", {}, owner="ann", expires_s=0.01)
        await store.records.add("batch", f"kept{number}", {}, owner="ann", expires_s=60)
    await store.records.add("batch", "moved", {}, owner="ann", expires_s=0.01)
    await asyncio.sleep(0.03)
    await store.records.add("batch", "moved", {}, owner="bob")
    swept = 0
    async with asyncio.timeout(5):
        while swept < 5:
            swept += await store.sweep()
            await asyncio.sleep(0.1)
    assert await store.sweep() == 0
    assert len(await ids(store, owner="ann")) == 5
    assert await ids(store, owner="bob") == ["moved"]


@pytest.mark.parametrize("limit", [0, 1, 1000])
async def test_a_page_is_no_longer_than_asked(store: Store, limit: int) -> None:
    for name in "abc":
        await store.records.add("batch", name, {})
    assert await ids(store, limit=limit) == ["c", "b", "a"][:limit]


async def test_every_name_is_another(store: Store) -> None:
    for name in ODD:
        assert await store.records.add("batch", name, {"name": name}, owner=name)
    assert await ids(store) == list(ODD[::-1])
    for name in ODD:
        record = await read(store, name)
        assert (record.value, record.owner) == ({"name": name}, name)
        assert await ids(store, owner=name) == [name]
        assert await ids(store, after=name) == list(ODD[: ODD.index(name)][::-1])
