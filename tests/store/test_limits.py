"""What every store promises of limits."""

import asyncio

import pytest

from server.store.base import Store
from server.store.limits import Charge, Level, Standing, judge


def charge(amount: int, name: str = "a", limit: int = 10, window_s: float = 60.0) -> Charge:
    return Charge(name, amount, limit, window_s)


async def remaining(store: Store, name: str = "a", limit: int = 10) -> int:
    verdict = await store.limits.charge([charge(0, name, limit)])
    assert verdict.granted
    return verdict.levels[0].remaining


async def test_a_limit_is_used_up_by_all_together(store: Store, peer: Store) -> None:
    first = await store.limits.charge([charge(7)])
    assert (first.granted, first.refused, first.levels[0].remaining) == (True, None, 3)
    assert 59 < first.levels[0].reset_s <= 60
    second = await peer.limits.charge([charge(4)])
    assert (second.granted, second.refused, second.levels[0].remaining) == (False, 0, 3)
    assert (await peer.limits.charge([charge(3)])).granted
    assert await remaining(store) == 0


async def test_all_is_granted_or_nothing(store: Store) -> None:
    await store.limits.charge([charge(8, "b")])
    verdict = await store.limits.charge([charge(1, "a"), charge(3, "b"), charge(1, "c")])
    assert (verdict.granted, verdict.refused) == (False, 1)
    assert [level.remaining for level in verdict.levels] == [10, 2, 10]
    assert [level.reset_s > 0 for level in verdict.levels] == [False, True, False]
    verdict = await store.limits.charge([charge(1, "a"), charge(2, "b"), charge(0, "c")])
    assert [level.remaining for level in verdict.levels] == [9, 0, 10]
    assert verdict.levels[2] == Level(10, 10, 0.0)


async def test_the_one_that_takes_longest_is_named(store: Store) -> None:
    for name, window_s in (("minute", 60.0), ("day", 86_400.0), ("hour", 3_600.0)):
        await store.limits.charge([charge(10, name, window_s=window_s)])
    asked = [charge(1, name) for name in ("minute", "day", "hour", "free")]
    assert (await store.limits.charge(asked)).refused == 1


async def test_more_than_a_limit_never_fits(store: Store) -> None:
    verdict = await store.limits.charge([charge(11)])
    assert (verdict.granted, verdict.refused, verdict.levels) == (False, 0, (Level(10, 10, 0.0),))


async def test_asking_uses_nothing_and_begins_no_window(store: Store) -> None:
    assert (await store.limits.charge([charge(0)])).levels == (Level(10, 10, 0.0),)
    await store.limits.charge([charge(10)])
    assert (await store.limits.charge([charge(0, limit=4)])).levels[0].remaining == 0
    assert (await store.limits.charge([])).granted


async def test_a_window_ends_with_all_that_was_used_in_it(store: Store) -> None:
    await store.limits.charge([charge(6, window_s=0.6)])
    await asyncio.sleep(0.2)
    verdict = await store.limits.charge([charge(4, window_s=0.6)])
    assert verdict.levels[0].remaining == 0
    assert verdict.levels[0].reset_s < 0.41
    await asyncio.sleep(0.45)
    verdict = await store.limits.charge([charge(10)])
    assert verdict.granted
    assert verdict.levels[0].reset_s > 59


async def test_correcting_asks_nobody(store: Store, peer: Store) -> None:
    await store.limits.charge([charge(4, "a"), charge(4, "b")])
    await peer.limits.correct([charge(20, "a"), charge(-3, "b"), charge(5, "new")])
    assert [await remaining(store, name) for name in ("a", "b", "new")] == [0, 9, 10]
    await store.limits.correct([charge(-18, "a"), charge(-9, "b")])
    assert [await remaining(store, name) for name in ("a", "b")] == [4, 10]
    assert (await store.limits.charge([charge(10, "b")])).granted
    await store.limits.correct([])


async def test_correcting_does_not_prolong_a_window_or_begin_one(store: Store) -> None:
    await store.limits.charge([charge(4, window_s=0.4)])
    await store.limits.correct([charge(2, window_s=60)])
    await asyncio.sleep(0.45)
    await store.limits.correct([charge(2, window_s=60)])
    assert (await store.limits.charge([charge(0)])).levels == (Level(10, 10, 0.0),)


async def test_fifty_at_once_are_granted_exactly_the_limit(store: Store, peer: Store) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(each.limits.charge([charge(1, limit=20), charge(3, "t", limit=1000)]))
            for _ in range(25)
            for each in (store, peer)
        ]
    verdicts = [each.result() for each in asked]
    assert sum(verdict.granted for verdict in verdicts) == 20
    levels = sorted(verdict.levels[0].remaining for verdict in verdicts if verdict.granted)
    assert levels == list(range(20))
    assert await remaining(store, "t", 1000) == 1000 - 20 * 3


async def test_holders_share_what_may_be_held(store: Store, peer: Store) -> None:
    limits = store.limits
    assert await limits.hold("samples", "one", 6, 10, 60)
    assert not await peer.limits.hold("samples", "two", 5, 10, 60)
    assert await peer.limits.hold("samples", "two", 4, 10, 60)
    assert not await limits.hold("samples", "one", 7, 10, 60)
    assert not await limits.hold("samples", "three", 1, 10, 60)
    assert await limits.hold("samples", "one", 2, 10, 60)
    assert await limits.hold("samples", "three", 4, 10, 60)
    assert await limits.hold("others", "one", 10, 10, 60)
    await peer.limits.release("samples", "three")
    await limits.release("samples", "nobody")
    assert not await limits.hold("samples", "four", 5, 10, 60)
    assert await limits.hold("samples", "four", 4, 10, 60)


async def test_what_a_holder_that_died_held_becomes_free(store: Store) -> None:
    assert await store.limits.hold("samples", "dead", 10, 10, 0.2)
    assert await store.limits.hold("samples", "dead", 10, 10, 0.8)
    await asyncio.sleep(0.3)
    assert not await store.limits.hold("samples", "live", 1, 10, 60)
    await asyncio.sleep(0.6)
    assert await store.limits.hold("samples", "live", 10, 10, 60)
    await store.sweep()
    assert not await store.limits.hold("samples", "other", 1, 10, 60)


async def test_fifty_holders_at_once_hold_exactly_the_limit(store: Store, peer: Store) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(each.limits.hold("samples", f"{number}", 3, 20, 60))
            for number, each in enumerate((store, peer) * 25)
        ]
    assert sum(each.result() for each in asked) == 6


@pytest.mark.parametrize(
    ("amounts", "refused"),
    [((5, 5, 5), None), ((6, 5, 5), 0), ((6, 6, 6), 2), ((6, 6, 0), 0), ((0, 6, 0), 1)],
)
def test_judging(amounts: tuple[int, ...], refused: int | None) -> None:
    standings = [Standing(5, 2.0), Standing(5, 1.0), Standing(5, 3.0)]
    charges = [charge(amount, f"{place}") for place, amount in enumerate(amounts)]
    assert judge(charges, standings) == refused
