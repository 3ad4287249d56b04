"""The conformance suite over every discovered strategy, and proof that it can fail."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.engines.scripted import ScriptedEngine
from strategies import race
from strategies.base import Need, Parallel, Strategy, strategy_classes
from strategies.budget import Budget, Ledger, Reservation, Stage
from strategies.events import EventKind
from strategies.self_consistency import SelfConsistency
from tests.strategies import conformance
from tests.strategies.harness import Bench
from verifiers.errors import EngineError
from verifiers.judge import Judge
from verifiers.types import Chunk, Usage

ALL = [cls() for cls in strategy_classes().values()]
names = [type(each).model_fields["type"].default for each in ALL]
every_strategy = pytest.mark.parametrize("strategy", ALL, ids=names)


@every_strategy
async def test_the_ledger_equals_the_engines_own_count(strategy: Strategy) -> None:
    await conformance.check_ledger(strategy)


@every_strategy
async def test_no_budget_is_overrun_or_wasted_and_each_gives_an_answer(strategy: Strategy) -> None:
    rng = random.Random(7)
    for _ in range(1_000 // len(ALL) + 1):
        await conformance.check_budget(strategy, rng)


async def test_parallel_extensions_never_overrun_a_budget() -> None:
    rng = random.Random(11)
    for _ in range(250):
        await conformance.check_parallel_budget(rng)


@every_strategy
@pytest.mark.parametrize("seed", range(5))
async def test_the_same_seed_gives_the_same_answer(strategy: Strategy, seed: int) -> None:
    await conformance.check_seed(strategy, seed)


@every_strategy
async def test_cancelling_at_any_moment_leaves_nothing_running(strategy: Strategy) -> None:
    rng = random.Random(13)
    for _ in range(15):
        await conformance.check_cancel(strategy, rng)


@every_strategy
async def test_a_run_that_breaks_closes_its_generations(strategy: Strategy) -> None:
    rng = random.Random(17)
    for _ in range(5):
        await conformance.check_close(strategy, rng)


@every_strategy
def test_parameters_survive_a_round_trip(strategy: Strategy) -> None:
    cls = type(strategy)
    assert cls.model_validate_json(strategy.model_dump_json()) == strategy
    assert cls.model_validate(strategy.model_dump(exclude_defaults=True)) == strategy
    assert strategy.worst_case(1, 100, None, Budget(5_000)).tokens <= 5_000


@every_strategy
async def test_the_worst_case_is_one(strategy: Strategy) -> None:
    bench = Bench()
    worst = strategy.worst_case(1, bench.sampling.max_tokens, bench.verifier, bench.budget)
    await bench.run(strategy)
    assert bench.ledger.usage[Stage.SAMPLE].calls <= worst.samples
    assert bench.ledger.total.completion_tokens <= worst.tokens


@every_strategy
async def test_a_failed_sample_costs_that_sample(strategy: Strategy) -> None:
    failing = iter([EngineError("lost"), *[None] * 10_000])
    engine = ScriptedEngine(fail=lambda _prompt, _index: next(failing))
    bench = Bench(engine, n=min(2, strategy.choices(2)))
    outcome = await bench.run(strategy)
    assert outcome.choices
    assert engine.log["failed"] == 1
    assert bench.ledger.total.completion_tokens == engine.log["tokens"]
    assert bench.at_rest()


async def test_a_spent_budget_still_votes_with_what_it_has() -> None:
    bench = Bench(budget=Budget(300, 100, 60.0))
    outcome = await bench.run(SelfConsistency(n=64))
    assert outcome.stopped_by == "tokens"
    assert outcome.agreement is not None
    assert outcome.answer == outcome.choices[0].text.rpartition("{")[2].rstrip("}")
    done = [each for each in outcome.candidates if each.done]
    assert len(done) >= 3


@every_strategy
async def test_a_judge_is_counted_in_its_own_stage(strategy: Strategy) -> None:
    engine = ScriptedEngine()
    bench = Bench(engine, verifier=Judge())
    await bench.run(strategy)
    assert bench.ledger.total.completion_tokens == engine.log["tokens"]
    judged = bench.ledger.usage[Stage.VERIFY]
    scored = [each.data["id"] for each in bench.events.events if each.kind is EventKind.SCORED]
    assert judged.calls == len(scored)
    assert bool(scored) == (Need.SCORES in strategy.required())
    if scored and isinstance(strategy, Parallel):
        assert {each.id for each in bench.request.produced.values() if each.done} <= set(scored)
    assert bench.at_rest()


def no_reservation(ledger: Ledger, stage: Stage, tokens: int) -> Reservation:
    return Reservation(ledger, stage, tokens)


def no_count(reservation: Reservation, usage: Usage) -> None:
    reservation.used += usage.completion_tokens


@asynccontextmanager
async def no_close(
    chunks: AsyncGenerator[Chunk, None],
) -> AsyncIterator[AsyncGenerator[Chunk, None]]:
    KEPT.append(chunks)
    yield chunks


KEPT: list[AsyncGenerator[Chunk, None]] = []


async def test_without_the_reservation_the_suite_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "reserve", no_reservation)
    with pytest.raises(AssertionError):
        await test_parallel_extensions_never_overrun_a_budget()


async def test_without_the_count_the_suite_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reservation, "book", no_count)
    with pytest.raises(AssertionError):
        await conformance.check_ledger(SelfConsistency())


async def test_without_the_close_the_suite_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "aclosing", no_close)
    try:
        with pytest.raises(AssertionError):
            await test_a_run_that_breaks_closes_its_generations(SelfConsistency())
    finally:
        for chunks in KEPT:
            await chunks.aclose()
        KEPT.clear()
