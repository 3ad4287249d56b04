"""What holds for every strategy. Each check raises AssertionError where it does not."""

from __future__ import annotations

import asyncio
import random

from server.engines.scripted import ScriptedEngine
from strategies.admission import Admission
from strategies.base import Need, Strategy
from strategies.budget import Budget, Limit
from strategies.events import EventKind
from tests.strategies.harness import Bench
from verifiers.concurrency import together
from verifiers.errors import BudgetSpent
from verifiers.types import Candidate, Sampling


async def check_ledger(strategy: Strategy) -> None:
    """The ledger equals the engine's own count: tokens and calls."""
    engine = ScriptedEngine()
    bench = Bench(engine)
    await bench.run(strategy)
    total = bench.ledger.total
    assert total.completion_tokens == engine.log["tokens"] > 0
    assert total.exact
    assert 0 < sum(own_tokens(bench).values()) <= total.completion_tokens
    assert min(own_tokens(bench).values()) >= 0
    assert bench.at_rest()


def own_tokens(bench: Bench) -> dict[str, int]:
    """Tokens generated for each candidate itself: a branch begins with those of its parent.

    One that does not begin with a parent that had ended was made of it, and does not go on with it.
    """
    produced = bench.request.produced
    own = {each.id: each.tokens for each in produced.values()}
    for each in produced.values():
        parent = produced.get(each.parent or "")
        if parent is None:
            continue
        if not parent.done or each.text.startswith(parent.text):
            own[each.id] -= parent.tokens
    return own


def cut_off(bench: Bench) -> list[Candidate]:
    """Return what was left unfinished for want of budget: neither pruned nor branched."""
    produced = bench.request.produced.values()
    parents = {each.parent for each in produced}
    pruned = {each.data["id"] for each in bench.events.events if each.kind is EventKind.PRUNED}
    return [each for each in produced if not each.done and each.id not in pruned | parents]


async def check_budget(strategy: Strategy, rng: random.Random, calls: int = 12) -> None:
    """Whatever the budget: never overrun, an answer, and nothing cut before 90 % are used."""
    budget = Budget(rng.randint(1, 700), rng.randint(1, calls), 60.0)
    engine = ScriptedEngine()
    bench = Bench(
        engine,
        budget,
        admission=Admission(rng.randint(1, 9), rng.randint(1, 9)),
        sampling=Sampling(rng.randint(1, 150), seed=rng.randint(0, 99), logprobs=0),
    )
    outcome = await bench.run(strategy)
    assert outcome.choices
    used = bench.ledger.total.completion_tokens
    assert used == engine.log["tokens"] <= budget.max_tokens, (used, engine.log, budget)
    assert bench.ledger.total.calls <= budget.max_calls
    if cut := cut_off(bench):
        assert outcome.stopped_by is not None, cut
        if outcome.stopped_by not in excuses(strategy):
            assert used >= 0.9 * budget.max_tokens, f"cut at {used} of {budget.max_tokens} tokens"
    assert bench.at_rest()


def excuses(strategy: Strategy) -> set[Limit]:
    """Return what may cut replies while tokens are left: calls, where replies grow by pieces."""
    others = {Limit.DEADLINE, Limit.DECIDED}
    return others | {Limit.CALLS} if Need.CONTINUATION in strategy.required() else others


async def check_parallel_budget(rng: random.Random) -> None:
    """Parallel samples and extensions share one budget and never overrun it."""
    budget = Budget(rng.randint(1, 400), 1_000, 60.0)
    engine = ScriptedEngine(delay=0.0)
    bench = Bench(engine, budget, sampling=Sampling(100, seed=rng.randint(0, 99)))
    forks = [bench.session.fork([{"role": "user", "content": f"{i}?"}]) for i in range(5)]

    async def grow(fork_index: int) -> None:
        fork = forks[fork_index]
        try:
            candidates = await fork.sample(2, max_tokens=8)
            while not all(each.done for each in candidates):
                candidates = await fork.extend(candidates, tokens=rng.randint(1, 60))
        except BudgetSpent:
            return

    await together(grow(index) for index in range(len(forks)))
    used = bench.ledger.total.completion_tokens
    assert used == engine.log["tokens"] <= budget.max_tokens, (used, engine.log, budget)
    assert bench.at_rest()


async def check_seed(strategy: Strategy, seed: int) -> None:
    """The same seed gives the same answer and the same candidates, however busy the server is."""

    async def once(slots: int) -> object:
        bench = Bench(
            admission=Admission(slots, slots), sampling=Sampling(64, seed=seed, logprobs=0)
        )
        outcome = await bench.run(strategy)
        return outcome.choices, outcome.answer, sorted(outcome.candidates, key=lambda c: c.id)

    assert await once(64) == await once(3)


async def check_cancel(strategy: Strategy, rng: random.Random) -> None:
    """A cancelled run leaves nothing running, waiting or reserved."""
    engine = ScriptedEngine(delay=0.001)
    bench = Bench(engine, admission=Admission(rng.randint(1, 9)))
    work = asyncio.create_task(bench.run(strategy))
    await asyncio.sleep(rng.random() * 0.05)
    work.cancel()
    await asyncio.wait([work])
    made = engine.log["tokens"]
    assert engine.running == 0
    assert bench.at_rest()
    await asyncio.sleep(0.01)
    assert engine.log["tokens"] == made


class Broken(Exception):
    """What a follower of the events raises in the middle of the work."""


async def check_close(strategy: Strategy, rng: random.Random) -> None:
    """A run that breaks while samples are between two tokens closes every generation."""
    engine = ScriptedEngine(delay=0.001)
    bench = Bench(engine)
    left = rng.randint(1, 3)

    def follow(_item: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Broken

    bench.events.subscribe(follow)
    work = asyncio.create_task(bench.run(strategy))
    await asyncio.wait([work])
    assert work.exception() is not None
    assert engine.running == 0
    assert bench.at_rest()
