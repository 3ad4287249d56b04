"""Every store does what simple models in memory do, whatever is asked in whatever order."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from server.store.base import Store, open_store
from server.store.jobs import LEASE_OVER, Claim, Counts, Finished, Job
from server.store.limits import Charge
from tests.store.serving import RedisServer

GROUPS = st.sampled_from(["g", "h"])
QUEUES = st.sampled_from(["q", "r"])
ATTEMPTS = 2
SHORT = 0.001
"""A lease, a delay or a window that is over at once."""
LONG = 600.0


@dataclass
class Kept:
    """A job as the model has it."""

    queue: str
    group: str
    job: Job
    position: int
    status: str = "waiting"
    attempt: int = 0
    token: str = ""
    due: bool = True
    """Waiting: it may be claimed; running: its lease is over."""
    result: dict[str, Any] = field(default_factory=dict)

    def is_held_by(self, claim: Claim) -> bool:
        return self.status == "running" and self.token == claim.token

    def wait(self, due: bool = True) -> None:
        self.status, self.due = "waiting", due


class Machine(RuleBasedStateMachine):
    """Runs a store in a loop of its own."""

    url: str
    server: RedisServer | None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        if self.server is not None:
            self.server.empty()
        self.store: Store = self.runner.run(open_store(self.url))

    def teardown(self) -> None:
        self.runner.run(self.store.aclose())
        self.runner.close()


def end_what_is_short() -> None:
    time.sleep(4 * SHORT)


class JobsMachine(Machine):
    claims: Bundle[Claim] = Bundle("claims")

    @initialize()
    def begin(self) -> None:
        self.kept: list[Kept] = []
        self.count = 0

    def of(self, group: str) -> list[Kept]:
        return [each for each in self.kept if each.group == group]

    def find(self, claim: Claim) -> Kept | None:
        """Find the claim's job; one of a group that was dropped may have its name."""
        for each in self.of(claim.group):
            if each.job.id == claim.job.id:
                return each
        return None

    @rule(queue=QUEUES, group=GROUPS, ids=st.lists(st.integers(0, 5).map(str), max_size=4))
    def enqueue(self, queue: str, group: str, ids: list[str]) -> None:
        new = 0
        jobs = []
        for each in ids:
            self.count += 1
            jobs.append(Job(each, {"n": self.count}))
            if all(kept.job.id != each for kept in self.of(group)):
                self.kept.append(Kept(queue, group, jobs[-1], len(self.of(group))))
                new += 1
        assert self.runner.run(self.store.jobs.enqueue(queue, group, jobs)) == new

    @rule(target=claims, queue=QUEUES, limit=st.integers(0, 3), short=st.booleans())
    def claim(self, queue: str, limit: int, short: bool) -> Any:
        claims = self.runner.run(
            self.store.jobs.claim(
                queue, limit=limit, lease_s=SHORT if short else LONG, attempts=ATTEMPTS
            )
        )
        end_what_is_short()
        for each in (kept for kept in self.kept if kept.queue == queue):
            if each.status == "running" and each.due:
                each.wait()
                if each.attempt >= ATTEMPTS:
                    each.status, each.result = "dead", {"error": LEASE_OVER}
        ours = [
            each
            for each in self.kept
            if (each.queue, each.status, each.due) == (queue, "waiting", True)
        ][:limit]
        for each, claim in zip(ours, claims, strict=True):
            each.status, each.due, each.token = "running", short, claim.token
            each.attempt += 1
            assert claim == Claim(queue, each.group, each.job, each.attempt, each.token)
        return multiple(*claims)

    @rule(claims=st.lists(claims, max_size=3), short=st.booleans())
    def renew(self, claims: list[Claim], short: bool) -> None:
        lease_s = SHORT if short else LONG
        held = self.runner.run(self.store.jobs.renew(claims, lease_s=lease_s))
        end_what_is_short()
        ours = []
        for claim in claims:
            kept = self.find(claim)
            if kept is not None and kept.is_held_by(claim):
                kept.due = short
                ours.append(claim)
        assert held == ours

    @rule(claim=claims, n=st.integers())
    def finish(self, claim: Claim, n: int) -> None:
        kept = self.find(claim)
        counts = kept is not None and kept.status in ("waiting", "running")
        assert self.runner.run(self.store.jobs.finish(claim, {"n": n})) == counts
        if kept is not None and counts:
            kept.status, kept.result = "done", {"n": n}

    @rule(
        claim=claims,
        error=st.sampled_from([None, "", "bad"]),
        delay_s=st.sampled_from([0, SHORT, LONG]),
    )
    def give_back(self, claim: Claim, error: str | None, delay_s: float) -> None:
        self.runner.run(
            self.store.jobs.give_back(claim, error=error, delay_s=delay_s, attempts=ATTEMPTS)
        )
        end_what_is_short()
        kept = self.find(claim)
        if kept is None or not kept.is_held_by(claim):
            return
        kept.wait(delay_s != LONG)
        if error is None:
            kept.attempt -= 1
        elif kept.attempt >= ATTEMPTS:
            kept.status, kept.result = "dead", {"error": error}

    @rule(group=GROUPS)
    def cancel(self, group: str) -> None:
        ours = [
            each
            for each in self.of(group)
            if each.status == "waiting" or (each.status == "running" and each.due)
        ]
        assert self.runner.run(self.store.jobs.cancel(group)) == len(ours)
        for each in ours:
            each.status = "cancelled"

    @rule(group=GROUPS)
    def revive(self, group: str) -> None:
        ours = [each for each in self.of(group) if each.status == "dead"]
        assert self.runner.run(self.store.jobs.revive(group)) == len(ours)
        for each in ours:
            each.wait()
            each.attempt, each.result = 0, {}

    @rule(group=GROUPS)
    def drop(self, group: str) -> None:
        self.runner.run(self.store.jobs.drop(group))
        self.kept = [each for each in self.kept if each.group != group]

    @invariant()
    def agree(self) -> None:
        for group in ("g", "h"):
            ours = self.of(group)
            found = self.runner.run(self.store.jobs.counts(group))
            statuses = [each.status for each in ours]
            assert found == Counts(**{name: statuses.count(name) for name in set(statuses)})
            assert self.runner.run(self.store.jobs.results(group)) == [
                Finished(each.position, each.job.id, each.status, each.result)
                for each in ours
                if each.status in ("done", "dead", "cancelled")
            ]
        for queue in ("q", "r"):
            assert self.runner.run(self.store.jobs.dead(queue)) == [
                Claim(queue, each.group, each.job, each.attempt, each.token)
                for each in self.kept
                if (each.queue, each.status) == (queue, "dead")
            ]


NAMES = st.sampled_from(["a", "b", "c"])
HOLDERS = st.sampled_from(["one", "two", "three"])
LIMIT = 10


class LimitsMachine(Machine):
    @initialize()
    def begin(self) -> None:
        self.used: dict[str, int] = {}
        self.held: dict[str, int] = {}

    @rule(
        amounts=st.dictionaries(NAMES, st.integers(0, 6), max_size=3),
        window_s=st.sampled_from([SHORT, LONG]),
    )
    def charge(self, amounts: dict[str, int], window_s: float) -> None:
        charges = [Charge(name, amount, LIMIT, window_s) for name, amount in amounts.items()]
        verdict = self.runner.run(self.store.limits.charge(charges))
        end_what_is_short()
        fits = [
            not amount or self.used.get(name, 0) + amount <= LIMIT
            for name, amount in amounts.items()
        ]
        assert verdict.granted == all(fits)
        assert verdict.refused is None if all(fits) else not fits[verdict.refused or 0]
        after = dict(self.used)
        for name, amount in amounts.items() if all(fits) else ():
            after[name] = after.get(name, 0) + amount
        assert [each.remaining for each in verdict.levels] == [
            max(0, LIMIT - after.get(name, 0)) for name in amounts
        ]
        begun = [name for name in amounts if name not in self.used]
        self.used = {
            name: used
            for name, used in after.items()
            if window_s == LONG or name not in begun
            if name in self.used or amounts[name]
        }

    @rule(name=NAMES, amount=st.integers(-8, 8))
    def correct(self, name: str, amount: int) -> None:
        self.runner.run(self.store.limits.correct([Charge(name, amount, LIMIT, LONG)]))
        if name in self.used:
            self.used[name] = max(0, self.used[name] + amount)

    @rule(holder=HOLDERS, amount=st.integers(0, 8), lease_s=st.sampled_from([SHORT, LONG]))
    def hold(self, holder: str, amount: int, lease_s: float) -> None:
        others = sum(held for name, held in self.held.items() if name != holder)
        granted = self.runner.run(self.store.limits.hold("s", holder, amount, LIMIT, lease_s))
        end_what_is_short()
        assert granted == (others + amount <= LIMIT)
        if granted and lease_s == LONG:
            self.held[holder] = amount
        elif granted:
            self.held.pop(holder, None)

    @rule(holder=HOLDERS)
    def release(self, holder: str) -> None:
        self.runner.run(self.store.limits.release("s", holder))
        self.held.pop(holder, None)

    @invariant()
    def agree(self) -> None:
        charges = [Charge(name, 0, LIMIT, LONG) for name in "abc"]
        verdict = self.runner.run(self.store.limits.charge(charges))
        assert [each.remaining for each in verdict.levels] == [
            max(0, LIMIT - self.used.get(name, 0)) for name in "abc"
        ]
        assert [each.reset_s > 0 for each in verdict.levels] == [
            name in self.used for name in "abc"
        ]


@pytest.mark.parametrize("kind", ["memory", "redis"])
@pytest.mark.parametrize("machine", [JobsMachine, LimitsMachine])
def test_a_store_does_as_its_model(
    machine: type[Machine], url: str, kind: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("redis_server") if kind == "redis" else None
    bound = type(machine.__name__, (machine,), {"url": url, "server": server})
    run_state_machine_as_test(
        bound,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
