"""Monte Carlo tree search on a scripted tree, with visits and values worked out by hand."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from strategies.base import Need
from strategies.budget import Budget
from strategies.events import EventKind
from strategies.mcts import MCTS
from strategies.search_tree import Node, Tree
from tests.strategies import conformance
from tests.strategies.harness import Bench
from tests.strategies.tree_engine import TreeEngine, last_step
from verifiers.base import Verifier
from verifiers.types import (
    Candidate,
    Powers,
    Sampling,
    Score,
    Task,
)

CHILDREN = {"": ("A", "B"), "A": ("a1", "a2"), "B": ("b1", "b2")}
"""Steps that follow a step; what has none ends in an answer."""
ANSWERS = {"a1": "3", "a2": "4", "b1": "5", "b2": "5"}


class Steps(Verifier):
    """Scores a reply by its last step."""

    type: Literal["steps"] = "steps"
    values: Mapping[str, float]

    @property
    def partial(self) -> bool:
        return True

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        return [Score(self.values[last_step(each.text)]) for each in candidates]


def engine_of(children: Mapping[str, Sequence[str]] = CHILDREN, **given: Any) -> TreeEngine:
    return TreeEngine(children, ANSWERS, **given)


def visits(tree: Tree) -> dict[str, int]:
    return {name(node): node.visits for node in tree.nodes()}


def name(node: Node) -> str:
    return last_step(node.state.text) if node.parent is not None else ""


def steps(**values: float) -> Steps:
    return Steps(values=values)


UCT_VALUES = {"A": 0.5, "B": 0.7, "a1": 0.2, "a2": 0.4, "b1": 0.6, "b2": 0.9}


@pytest.mark.parametrize(
    ("simulations", "expected"),
    [
        # 1 grows the root and visits B, which the verifier likes best; 2: A had no visit.
        (2, {"": 2, "B": 1, "A": 1}),
        # 3: √(ln 2 / 1) = .833 for both, B .7 > A .5: B grows, b2 is its best.
        (3, {"": 3, "B": 2, "A": 1, "b2": 1, "b1": 0}),
        # 4: B (.7 + .9) / 2 + √(ln 3 / 2) = 1.541, A .5 + √(ln 3) = 1.548: A grows, a2.
        (4, {"": 4, "B": 2, "A": 2, "b2": 1, "b1": 0, "a2": 1, "a1": 0}),
        # 5: B .8 > A .45 with the same bonus: b1 had no visit.
        (5, {"": 5, "B": 3, "A": 2, "b2": 1, "b1": 1, "a2": 1, "a1": 0}),
        # 6: B .733 + .732 > A .45 + .897: b2 again, .9 > .6, though it has ended.
        (6, {"": 6, "B": 4, "A": 2, "b2": 2, "b1": 1, "a2": 1, "a1": 0}),
        # 7: B .775 + .669 > A .45 + .947: b1 .6 + √(ln 4) = 1.777 > b2 .9 + √(ln 4 / 2) = 1.733.
        (7, {"": 7, "B": 5, "A": 2, "b2": 2, "b1": 2, "a2": 1, "a1": 0}),
        # 8: A .45 + √(ln 7 / 2) = 1.436 > B .74 + √(ln 7 / 5) = 1.364: a1 had no visit.
        (8, {"": 8, "B": 5, "A": 3, "b2": 2, "b1": 2, "a2": 1, "a1": 1}),
    ],
)
async def test_uct_visits_are_those_worked_out_by_hand(
    simulations: int, expected: dict[str, int]
) -> None:
    bench = Bench(engine_of(), verifier=steps(**UCT_VALUES))
    strategy = MCTS(simulations=simulations, children=2, exploration=1, parallel=1)
    tree = await strategy.search(bench.session)
    assert visits(tree) == expected


async def test_values_are_means_over_all_visits_below() -> None:
    bench = Bench(engine_of(), verifier=steps(**UCT_VALUES))
    tree = await MCTS(simulations=8, children=2, exploration=1, parallel=1).search(bench.session)
    values = {name(node): node.value for node in tree.nodes()}
    assert values == {
        "": pytest.approx((0.7 + 0.5 + 0.9 + 0.4 + 0.6 + 0.9 + 0.6 + 0.2) / 8),
        "B": pytest.approx((0.7 + 0.9 + 0.6 + 0.9 + 0.6) / 5),
        "A": pytest.approx((0.5 + 0.4 + 0.2) / 3),
        "b2": pytest.approx(0.9),
        "b1": pytest.approx(0.6),
        "a2": pytest.approx(0.4),
        "a1": pytest.approx(0.2),
    }
    assert not any(node.pending or node.busy for node in tree.nodes())
    assert bench.ledger.total.completion_tokens == bench.engine.log["tokens"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("simulations", "expected"),
    [
        # P(A) = .3 / .4, P(B) = .1 / .4. 1 grows the root and visits B, .8.
        # 2: A .4 + .75 = 1.15 > B .8 + .25 / 2 = .925.
        (2, {"": 2, "B": 1, "A": 1}),
        # 3: B .8 + .25 √2 / 2 = .977 > A .4 + .75 √2 / 2 = .930: B grows, b1.
        (3, {"": 3, "B": 2, "A": 1, "b1": 1, "b2": 0}),
        # 4: A .4 + .75 √3 / 2 = 1.050 > B .85 + .25 √3 / 3 = .994: A grows, a1.
        (4, {"": 4, "B": 2, "A": 2, "b1": 1, "b2": 0, "a1": 1, "a2": 0}),
        # 5: B .85 + .25 · 2 / 3 = 1.017 > A .5 + .75 · 2 / 3 = 1:
        # b1 .9 + .5 √2 / 2 = 1.254 > b2 .1 + .5 √2 = .807.
        (5, {"": 5, "B": 3, "A": 2, "b1": 2, "b2": 0, "a1": 1, "a2": 0}),
        # 6: A .5 + .75 √5 / 3 = 1.059 > B .867 + .25 √5 / 4 = 1.006:
        # a1 .6 + .5 √2 / 2 = .954 > a2 .2 + .5 √2 = .907.
        (6, {"": 6, "B": 3, "A": 3, "b1": 2, "b2": 0, "a1": 2, "a2": 0}),
    ],
)
async def test_puct_visits_are_those_worked_out_by_hand(
    simulations: int, expected: dict[str, int]
) -> None:
    values = {"A": 0.4, "B": 0.8, "a1": 0.6, "a2": 0.2, "b1": 0.9, "b2": 0.1}
    bench = Bench(engine_of(chances={"A": 0.3, "B": 0.1}), verifier=steps(**values))
    strategy = MCTS(simulations=simulations, children=2, policy="puct", exploration=1, parallel=1)
    tree = await strategy.search(bench.session)
    assert visits(tree) == expected
    assert [node.prior for node in tree.root.children] == pytest.approx([0.25, 0.75])


async def test_equal_siblings_are_one_node_with_their_priors_added() -> None:
    engine = engine_of({**CHILDREN, "": ("A", "B", "A")}, chances={"A": 0.2, "B": 0.4})
    bench = Bench(engine, verifier=steps(**UCT_VALUES))
    tree = await MCTS(simulations=1, children=3, policy="puct").search(bench.session)
    priors = {name(node): node.prior for node in tree.root.children}
    assert priors == {"A": pytest.approx(0.5), "B": pytest.approx(0.5)}
    assert sum(event.kind is EventKind.SCORED for event in bench.events.events) == 2


WIDE = {"": ("A", "B", "C", "D"), **{x: (x.lower(),) for x in "ABCD"}}
WIDE_VALUES = {**dict.fromkeys("ABCD", 0.5), **dict.fromkeys("abcd", 0.5)}


@pytest.mark.parametrize("seed", [None, 3])
async def test_virtual_loss_sends_simulations_to_different_leaves(seed: int | None) -> None:
    engine = engine_of(WIDE, waits=dict.fromkeys("ABCD", 0.01))
    sampling = Sampling(64, logprobs=0, seed=seed)
    bench = Bench(engine, verifier=steps(**WIDE_VALUES), sampling=sampling)
    # 1 grows the root, 2 to 4 visit its other children for nothing, 5 to 8 run at once.
    tree = await MCTS(simulations=8, children=4, parallel=4).search(bench.session)
    assert engine.asked == [("", 4), ("A", 4), ("B", 4), ("C", 4), ("D", 4)]
    assert engine.most == 4
    assert [node.visits for node in tree.root.children] == [2, 2, 2, 2]


async def test_a_slow_branch_holds_nobody_up() -> None:
    children = {"": ("A", "B"), "A": ("a",), "B": ("B1",), "B1": ("B2",), "B2": ("b",)}
    values = {"A": 0.5, "B": 0.5, "a": 0.5, "B1": 0.6, "B2": 0.6, "b": 0.6}
    engine = engine_of(children, waits={"A": 0.3})
    bench = Bench(engine, verifier=steps(**values))
    await MCTS(simulations=7, children=2, parallel=2, exploration=0.5).search(bench.session)
    texts = [e.data["text"] for e in bench.events.events if e.kind is EventKind.SAMPLED]
    ends = [last_step(text) for text in texts]
    assert ends.index("B2") < ends.index("a")


async def test_with_a_seed_timing_changes_nothing() -> None:
    async def once(delays: int) -> object:
        engine = engine_of(WIDE, shuffle=random.Random(delays))
        sampling = Sampling(64, logprobs=0, seed=5)
        bench = Bench(engine, verifier=steps(**WIDE_VALUES), sampling=sampling)
        tree = await MCTS(simulations=10, children=3, value="rollout").search(bench.session)
        return [(n.state, n.visits, n.total) for n in tree.nodes()], tree.ended

    assert repr(await once(1)) == repr(await once(2)) == repr(await once(3))


async def test_a_rollout_is_what_a_visit_is_worth() -> None:
    # 1 grows the root and finishes A, the first: a1, .2. 2 finishes B: b1, .6. 3: B grows, and
    # b1 has ended, .6. Nothing else is scored.
    values = {"a1": 0.2, "b1": 0.6, "b2": 0.9}
    bench = Bench(engine_of(), verifier=steps(**values))
    strategy = MCTS(simulations=3, children=2, value="rollout", exploration=1, parallel=1)
    tree = await strategy.search(bench.session)
    assert visits(tree) == {"": 3, "A": 1, "B": 2, "b1": 1, "b2": 0}
    means = {name(n): n.value for n in tree.nodes() if n.visits}
    assert means == pytest.approx({"": 1.4 / 3, "A": 0.2, "B": 0.6, "b1": 0.6})
    assert [last_step(reply.text) for _, reply in tree.ended] == ["a1", "b1", "b1", "b2"]


@pytest.mark.parametrize(
    ("select", "answer"),
    [("score", "4"), ("vote", "5"), ("visits", "5")],
)
async def test_the_answer_is_the_best_the_most_voted_or_the_most_visited(
    select: Any, answer: str
) -> None:
    # b1 and b2 say 5, .6 + .5; a2 says 4, .7, but A .1 is visited less than B .8.
    values = {"A": 0.1, "B": 0.8, "a1": 0.1, "a2": 0.7, "b1": 0.6, "b2": 0.5}
    bench = Bench(engine_of(), verifier=steps(**values))
    strategy = MCTS(simulations=12, children=2, exploration=1, parallel=1, select=select)
    outcome = await bench.run(strategy)
    assert outcome.answer == answer
    assert outcome.choices[0].done
    assert bench.at_rest()


async def test_an_answer_that_does_not_come_out_again_counts_less() -> None:
    # Halfway to b2 is B; gone on from there, b1 comes out: 5, the same answer. To a2 it is A,
    # and a1 comes out: 3, not 4. a2 is liked best, and loses.
    values = {"A": 0.5, "B": 0.5, "a1": 0.1, "a2": 0.9, "b1": 0.2, "b2": 0.3}
    for checked, answer in ((False, "4"), (True, "5")):
        bench = Bench(engine_of(), verifier=steps(**values))
        strategy = MCTS(
            simulations=8, children=2, parallel=1, select="score", mutual_consistency=checked
        )
        assert (await bench.run(strategy)).answer == answer


async def test_a_budget_that_finishes_nothing_finishes_the_best_leaf() -> None:
    bench = Bench(engine_of(), Budget(1_000, 6, 60.0), verifier=steps(**UCT_VALUES))
    outcome = await bench.run(MCTS(children=2))
    assert outcome.stopped_by == "calls"
    assert last_step(outcome.choices[0].text) == "b1"  # the first that follows B
    assert outcome.choices[0].done


def test_needs_are_those_of_its_parameters() -> None:
    assert Need.STEP_SCORES in MCTS().required()
    assert Need.STEP_SCORES not in MCTS(value="rollout").required()
    assert Need.LOGPROBS not in MCTS().required()
    assert Need.LOGPROBS in MCTS(policy="puct").required()


VARIANTS = [
    MCTS(value="rollout", policy="puct", children=3),
    MCTS(select="visits", step_tokens=16, split="tokens"),
    MCTS(select="score", mutual_consistency=True, step_tokens=40, split="tokens"),
]


@pytest.mark.parametrize("strategy", VARIANTS, ids=["rollout", "visits", "consistency"])
async def test_its_variants_conform(strategy: MCTS) -> None:
    rng = random.Random(7)
    for _ in range(40):
        await conformance.check_budget(strategy, rng)
    for seed in range(3):
        await conformance.check_seed(strategy, seed)
    await conformance.check_ledger(strategy)
    await conformance.check_cancel(strategy, rng)
    await conformance.check_close(strategy, rng)
