"""The confidence tree on scripted steps whose token probabilities are known."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from server.engines.scripted import ScriptedEngine
from strategies.budget import Budget
from strategies.confidence_tree import ConfidenceTree, Leaves
from strategies.events import EventKind
from tests.strategies.harness import Bench
from tests.strategies.tree_engine import TreeEngine
from verifiers.types import Candidate, Sampling


async def test_low_confidence_draws_more_steps() -> None:
    children = {"": ("sure", "unsure"), "sure": ("1", "2"), "unsure": ("3", "4", "5", "6", "7")}
    engine = TreeEngine(children, chances={"sure": 0.95, "unsure": 0.4})
    bench = Bench(engine, sampling=Sampling(64, logprobs=0))
    strategy = ConfidenceTree(n=50, children=2, extra=3, threshold=0.5)
    outcome = await bench.run(strategy)
    # Nothing is known at the start: 5 samples, of which two are distinct.
    assert sorted(engine.asked) == [("", 5), ("sure", 2), ("unsure", 5)]
    assert len([each for each in outcome.candidates if each.done]) == 2 + 5


async def test_leaves_are_drawn_in_proportion_to_their_confidence() -> None:
    first: Counter[str] = Counter()
    strategy = ConfidenceTree()
    for seed in range(2_000):
        bench = Bench(sampling=Sampling(64, seed=seed))
        leaves = Leaves([(Candidate(name), c) for name, c in (("a", 0.6), ("b", 0.3), ("c", 0.1))])
        work = strategy._start(bench.session, leaves)
        assert work is not None
        work.close()
        (drawn,) = {"a", "b", "c"} - {leaf.id for leaf, _ in leaves.open}
        first[drawn] += 1
    # Three standard deviations of 2,000 draws are 66, 61 and 40.
    assert first["a"] == pytest.approx(1_200, abs=66)
    assert first["b"] == pytest.approx(600, abs=61)
    assert first["c"] == pytest.approx(200, abs=40)


async def test_a_leaf_is_as_confident_as_its_last_step() -> None:
    children = {"": ("one",), "one": ("two",), "two": ("3",)}
    engine = TreeEngine(children, chances={"one": 0.9, "two": 0.5})
    bench = Bench(engine, sampling=Sampling(64, logprobs=0))
    strategy, leaves = ConfidenceTree(children=1, extra=0), Leaves([(Candidate("0"), 0.0)])
    confidences = []
    for _ in range(2):
        work = strategy._start(bench.session, leaves)
        assert work is not None
        strategy._take(leaves, *await work)
        confidences.append(leaves.open[0][1])
    assert confidences == pytest.approx([0.9, 0.5])


async def test_confident_replies_outvote_many() -> None:
    children = {"": ("1", "2", "2b")}
    engine = TreeEngine(children, chances={"1": 0.9, "2": 0.4, "2b": 0.3})
    outcome = await Bench(engine, sampling=Sampling(64, logprobs=0)).run(
        ConfidenceTree(children=3, extra=0)
    )
    assert outcome.answer == "1"
    assert outcome.agreement == pytest.approx(0.9 / 1.6)


async def test_it_ends_with_enough_finished_replies_or_extended_leaves() -> None:
    children = {"": ("a", "b"), "a": ("1", "2"), "b": ("3", "4")}
    engine = TreeEngine(children)
    bench = Bench(engine, sampling=Sampling(64, logprobs=0))
    await bench.run(ConfidenceTree(n=2, extra=0, parallel=1))
    assert [n for _, n in engine.asked] == [2, 2]
    bench = Bench(ScriptedEngine(lambda *_: "x\n\n" * 30), sampling=Sampling(100, logprobs=0))
    outcome = await bench.run(ConfidenceTree(max_steps=3, children=1, extra=0))
    assert bench.ledger.total.calls == 3 + 1
    assert outcome.choices[0].done


async def test_a_slow_leaf_holds_nobody_up() -> None:
    children = {"": ("a", "b"), "a": ("1",), "b": ("b2",), "b2": ("b3",), "b3": ("2",)}
    engine = TreeEngine(children, waits={"a": 0.3})
    bench = Bench(engine, sampling=Sampling(64, logprobs=0))
    await bench.run(ConfidenceTree(n=50, extra=0, parallel=2))
    texts = [e.data["text"] for e in bench.events.events if e.kind is EventKind.SAMPLED]
    slow = next(i for i, text in enumerate(texts) if text.startswith("a\n\n1"))
    quick = next(i for i, text in enumerate(texts) if text.startswith("b\n\nb2\n\nb3\n\n2"))
    assert quick < slow


async def test_with_a_seed_timing_changes_nothing() -> None:
    rows = ["", *"abc", *(x + y for x in "abc" for y in "123")]
    children = {x: tuple(x + y for y in ("123" if x else "abc")) for x in rows}

    async def once(delays: int) -> tuple[str, list[str]]:
        engine = TreeEngine(children, chances={"b1": 0.4}, shuffle=random.Random(delays))
        bench = Bench(engine, sampling=Sampling(64, seed=5, logprobs=0))
        outcome = await bench.run(ConfidenceTree(n=6))
        return repr(outcome.choices), sorted(map(repr, outcome.candidates))

    assert await once(1) == await once(2) == await once(3)


async def test_a_budget_that_finishes_nothing_finishes_the_surest_leaf() -> None:
    children = {"": ("a", "b"), "a": ("1", "2"), "b": ("3", "4")}
    engine = TreeEngine(children, chances={"a": 0.5, "b": 0.9})
    bench = Bench(engine, Budget(1_000, 6, 60.0), sampling=Sampling(64, logprobs=0))
    outcome = await bench.run(ConfidenceTree(extra=0))
    assert outcome.stopped_by == "calls"
    assert outcome.answer == "3"
