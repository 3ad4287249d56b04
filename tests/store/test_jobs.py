"""What every store promises of jobs."""

import asyncio
from collections.abc import Sequence

import pytest

from server.store.base import Store
from server.store.jobs import LEASE_OVER, Claim, Counts, Finished, Job

SHORT = 0.02
"""A lease that is over when a test says so."""


def jobs(*names: str) -> list[Job]:
    return [Job(name, {"do": name}) for name in names]


async def over() -> None:
    await asyncio.sleep(2 * SHORT)


async def claimed(store: Store, queue: str = "q", limit: int = 100, **how: float) -> list[Claim]:
    return await store.jobs.claim(queue, limit=limit, **how)  # type: ignore[arg-type]


def named(claims: Sequence[Claim]) -> list[str]:
    return [claim.job.id for claim in claims]


async def test_jobs_are_handed_out_in_their_order(store: Store, peer: Store) -> None:
    assert await store.jobs.enqueue("q", "g", jobs("b", "a")) == 2
    assert await peer.jobs.enqueue("q", "h", jobs("a")) == 1
    assert await store.jobs.enqueue("q", "g", jobs("c")) == 1
    assert await store.jobs.enqueue("other", "g", jobs("d")) == 1
    first = await claimed(store, limit=3)
    assert [(each.group, each.job, each.attempt) for each in first] == [
        ("g", Job("b", {"do": "b"}), 1),
        ("g", Job("a", {"do": "a"}), 1),
        ("h", Job("a", {"do": "a"}), 1),
    ]
    assert {each.queue for each in first} == {"q"}
    assert len({each.token for each in first}) == 3
    assert named(await claimed(peer)) == ["c"]
    assert await claimed(store) == []
    assert named(await claimed(store, "other")) == ["d"]


async def test_the_same_jobs_again_are_harmless(store: Store) -> None:
    assert await store.jobs.enqueue("q", "g", jobs("a", "b")) == 2
    [claim] = await claimed(store, limit=1)
    await store.jobs.finish(claim, {"n": 1})
    again = [Job("a", {"do": "evil"}), *jobs("b", "c"), *jobs("c")]
    assert await store.jobs.enqueue("q", "g", again) == 1
    assert await store.jobs.counts("g") == Counts(waiting=2, done=1)
    assert [claim.job for claim in await claimed(store)] == jobs("b", "c")
    assert await store.jobs.enqueue("q", "g", []) == 0


async def test_a_queue_is_as_deep_as_what_is_not_over(store: Store, peer: Store) -> None:
    assert await store.jobs.depth("q") == Counts()
    await store.jobs.enqueue("q", "g", jobs("a", "b", "c", "d", "e", "f"))
    await store.jobs.enqueue("q", "h", jobs("a", "b"))
    await store.jobs.enqueue("other", "g", jobs("z"))
    done, dead, late, _ = await claimed(store, limit=4)
    await store.jobs.finish(done, {})
    await store.jobs.give_back(dead, error="why", attempts=1)
    await store.jobs.give_back(late, delay_s=60)
    assert await peer.jobs.depth("q") == Counts(waiting=5, running=1, dead=1)
    assert await store.jobs.cancel("h") == 2
    assert await store.jobs.depth("q") == Counts(waiting=3, running=1, dead=1)
    assert await store.jobs.depth("other") == Counts(waiting=1)


async def test_nothing_is_claimed_where_nothing_is_asked_for(store: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a"))
    assert await claimed(store, limit=0) == await claimed(store, "nobody's") == []


async def test_two_who_claim_never_share_a_job(store: Store, peer: Store) -> None:
    names = [f"{number}" for number in range(120)]
    await store.jobs.enqueue("q", "g", jobs(*names))
    taken: list[str] = []

    async def work(by: Store, limit: int) -> None:
        while claims := await by.jobs.claim("q", limit=limit):
            taken.extend(named(claims))

    async with asyncio.TaskGroup() as group:
        for limit in (1, 2, 3):
            group.create_task(work(store, limit))
            group.create_task(work(peer, limit))
    assert sorted(taken, key=int) == names


async def test_a_result_is_kept_once_and_listed_in_order(store: Store, peer: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a", "b", "c"))
    a, b, c = await claimed(store)
    assert await store.jobs.finish(c, {"n": 3})
    assert await peer.jobs.finish(a, {"text": "½\ud800"})
    assert not await peer.jobs.finish(a, {"n": 2})
    assert await store.jobs.results("g") == [
        Finished(0, "a", "done", {"text": "½\ud800"}),
        Finished(2, "c", "done", {"n": 3}),
    ]
    assert await store.jobs.counts("g") == Counts(running=1, done=2)
    assert await store.jobs.finish(b, {"n": 2})
    assert [each.id for each in await peer.jobs.results("g", after=0)] == ["b", "c"]
    assert [each.id for each in await peer.jobs.results("g", limit=2)] == ["a", "b"]
    assert await store.jobs.results("g", after=2) == await store.jobs.results("h") == []


async def test_a_lease_that_is_over_lets_another_try(store: Store, peer: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a"))
    [first] = await claimed(store, lease_s=0.3)
    assert await claimed(peer) == []
    await asyncio.sleep(0.35)
    [second] = await claimed(peer, lease_s=60)
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.token != second.token
    assert await store.jobs.renew([first]) == []
    assert await peer.jobs.renew([second]) == [second]


async def test_the_first_result_counts_whoever_brings_it(store: Store, peer: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a", "b"))
    late_a, late_b = await claimed(store, lease_s=SHORT)
    await over()
    [new_a] = await claimed(peer, limit=1)
    assert await store.jobs.finish(late_b, {"by": "late"})
    assert await store.jobs.finish(late_a, {"by": "late"})
    assert await peer.jobs.renew([new_a]) == []
    assert not await peer.jobs.finish(new_a, {"by": "new"})
    assert [each.result for each in await store.jobs.results("g")] == [{"by": "late"}] * 2
    assert await claimed(peer) == []


async def test_leases_that_are_renewed_hold(store: Store, peer: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a", "b"))
    await store.jobs.enqueue("q", "h", jobs("a"))
    claims = await claimed(store, lease_s=0.1)
    assert await store.jobs.renew(claims[:1], lease_s=60) == claims[:1]
    assert await store.jobs.renew(claims[2:], lease_s=60) == claims[2:]
    await asyncio.sleep(0.11)
    [second] = await claimed(peer)
    assert (second.job.id, second.group) == ("b", "g")
    assert await store.jobs.renew(claims) == [claims[0], claims[2]]
    assert await store.jobs.renew([]) == []


async def test_a_claim_holds_until_the_next_claim_even_if_late(store: Store, peer: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a", "b"))
    claims = await claimed(store, lease_s=SHORT)
    await over()
    assert await store.jobs.counts("g") == Counts(running=2)
    assert await store.jobs.renew(claims[:1], lease_s=60) == claims[:1]
    assert named(await claimed(peer)) == ["b"]


async def test_the_last_attempt_that_ends_with_its_lease_is_the_end(store: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a"))
    for attempt in (1, 2):
        [claim] = await claimed(store, lease_s=SHORT, attempts=2)
        assert claim.attempt == attempt
        await over()
    assert await claimed(store, attempts=2) == []
    assert await store.jobs.counts("g") == Counts(dead=1)
    assert await store.jobs.results("g") == [Finished(0, "a", "dead", {"error": LEASE_OVER})]
    assert await store.jobs.dead("q") == [claim]
    assert not await store.jobs.finish(claim, {"too": "late"})


async def test_giving_back_without_an_error_costs_no_attempt(store: Store, peer: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a", "b"))
    for _ in range(5):
        [claim] = await claimed(store, limit=1, attempts=2)
        assert (claim.job.id, claim.attempt) == ("a", 1)
        await store.jobs.give_back(claim, attempts=2)
    assert await store.jobs.counts("g") == Counts(waiting=2)


async def test_errors_cost_attempts_until_the_job_is_dead(store: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a", "b"))
    for attempt in (1, 2, 3):
        [claim] = await claimed(store, limit=1)
        assert (claim.job.id, claim.attempt) == ("a", attempt)
        await store.jobs.give_back(claim, error=f"no. {attempt} \ud800")
    assert await store.jobs.counts("g") == Counts(waiting=1, dead=1)
    assert await store.jobs.results("g") == [Finished(0, "a", "dead", {"error": "no. 3 \ud800"})]
    assert await store.jobs.dead("q") == [claim]
    assert await store.jobs.dead("q", limit=0) == await store.jobs.dead("other") == []


async def test_a_job_waits_as_long_as_it_was_told(store: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a", "b"))
    [claim] = await claimed(store, limit=1)
    await store.jobs.give_back(claim, error="busy", delay_s=0.4)
    assert named(await claimed(store)) == ["b"]
    assert await store.jobs.counts("g") == Counts(waiting=1, running=1)
    await asyncio.sleep(0.45)
    [again] = await claimed(store)
    assert (again.job.id, again.attempt) == ("a", 2)


async def test_a_claim_that_no_longer_holds_gives_nothing_back(store: Store, peer: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a"))
    [old] = await claimed(store, lease_s=SHORT)
    await over()
    [new] = await claimed(peer)
    await store.jobs.give_back(old, error="mine", attempts=1)
    assert await store.jobs.renew([new]) == [new]
    await peer.jobs.finish(new, {"n": 1})
    await peer.jobs.give_back(new)
    assert await store.jobs.counts("g") == Counts(done=1)


async def test_cancelling_takes_what_waits(store: Store, peer: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("lost", "running", "delayed", "waiting"))
    await store.jobs.enqueue("q", "h", jobs("other"))
    [lost] = await claimed(store, limit=1, lease_s=0.5)
    running, delayed = await claimed(store, limit=2)
    await store.jobs.give_back(delayed, delay_s=60)
    await asyncio.sleep(0.55)
    assert await peer.jobs.cancel("g") == 3
    assert await store.jobs.counts("g") == Counts(running=1, cancelled=3)
    assert named(await claimed(store)) == ["other"]
    assert await store.jobs.renew([lost]) == []
    assert not await store.jobs.finish(lost, {})
    assert await store.jobs.finish(running, {"n": 1})
    assert [(each.id, each.status, each.result) for each in await store.jobs.results("g")] == [
        ("lost", "cancelled", {}),
        ("running", "done", {"n": 1}),
        ("delayed", "cancelled", {}),
        ("waiting", "cancelled", {}),
    ]
    assert await store.jobs.cancel("g") == await store.jobs.cancel("nobody's") == 0


async def test_the_dead_are_revived_with_all_attempts(store: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("a", "b"))
    await store.jobs.enqueue("q", "h", jobs("c"))
    for claim in await claimed(store):
        await store.jobs.give_back(claim, error="bad", attempts=1)
    assert named(await store.jobs.dead("q")) == ["a", "b", "c"]
    assert await store.jobs.revive("g") == 2
    assert named(await store.jobs.dead("q")) == ["c"]
    assert await store.jobs.results("g") == []
    again = await claimed(store)
    assert [(each.job.id, each.attempt) for each in again] == [("a", 1), ("b", 1)]
    assert await store.jobs.finish(again[0], {"n": 1})
    assert await store.jobs.counts("g") == Counts(running=1, done=1)
    assert await store.jobs.revive("g") == 0


async def test_a_group_that_is_dropped_is_gone(store: Store, peer: Store) -> None:
    await store.jobs.enqueue("q", "g", jobs("dead", "done", "running", "delayed", "waiting"))
    await store.jobs.enqueue("q", "h", jobs("other"))
    dead, done, running, delayed = await claimed(store, limit=4)
    await store.jobs.give_back(dead, error="bad", attempts=1)
    await store.jobs.finish(done, {})
    await store.jobs.give_back(delayed, delay_s=60)
    await peer.jobs.drop("g")
    assert (await store.jobs.counts("g")).total == 0
    assert await store.jobs.results("g") == []
    assert await store.jobs.dead("q") == []
    assert await store.jobs.renew([running]) == []
    assert not await store.jobs.finish(running, {})
    await store.jobs.give_back(running)
    assert named(await claimed(store)) == ["other"]
    assert await store.jobs.enqueue("q", "g", jobs("new")) == 1
    [new] = await claimed(store)
    await store.jobs.finish(new, {})
    assert [each.position for each in await store.jobs.results("g")] == [0]


async def test_large_groups(store: Store) -> None:
    names = [f"{number}" for number in range(1_200)]
    assert await store.jobs.enqueue("q", "g", jobs(*names)) == 1_200
    for claim in (await claimed(store, limit=650))[:640]:
        await store.jobs.give_back(claim, error="bad", attempts=1)
    assert await store.jobs.counts("g") == Counts(waiting=550, running=10, dead=640)
    assert [each.position for each in await store.jobs.results("g")] == list(range(640))
    assert len(await store.jobs.results("g", limit=250)) == 250
    assert await store.jobs.revive("g") == 640
    assert await store.jobs.cancel("g") == 1_190
    assert await store.jobs.counts("g") == Counts(running=10, cancelled=1_190)
    await store.jobs.drop("g")
    assert await store.jobs.counts("g") == Counts()


@pytest.mark.parametrize("name", ["a\nb", "a:b", "\ud800", "", "\x00", "[1]"])
async def test_names_may_be_anything(store: Store, name: str) -> None:
    await store.jobs.enqueue("q", name, jobs(name, "b"))
    await store.jobs.enqueue("q", f"{name}\n", jobs(name))
    claims = await claimed(store)
    assert [(each.group, each.job.id) for each in claims] == [
        (name, name),
        (name, "b"),
        (f"{name}\n", name),
    ]
    assert await store.jobs.renew(claims) == claims
    assert await store.jobs.finish(claims[0], {"n": 1})
    assert [each.id for each in await store.jobs.results(name)] == [name]
    await store.jobs.drop(name)
    assert await store.jobs.counts(f"{name}\n") == Counts(running=1)
