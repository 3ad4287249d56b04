"""REBASE on a tree of texts, its widths worked out by hand."""

from __future__ import annotations

from collections import Counter

from strategies.rebase import Rebase
from tests.strategies.trees import Walk

CHILDREN = {
    "": ["a", "b", "c"],
    "a": ["l1", "l2", "o", "o", "o", "o", "o"],
    "b": ["p"],
    "c": ["z"],
    "a o": ["e"],
    "b p": ["f"],
}
SCORES = {"a": 0.9, "b": 0.5, "c": 0.1, "a o": 0.5, "b p": 0.5, "a l1": 0.2}


async def test_widths_follow_the_softmax_and_what_has_ended_reduces_them() -> None:
    # The first 8 are 3 distinct steps. Softmax of scores / .2: .867, .117, .016. Of 8, a gets
    # round(6.93) = 7, b round(1 · .88) = 1, c 0. l1 and l2 end: 6 are left, o and p, equally
    # good, get 3 each; all of them end.
    walk = Walk.through(CHILDREN, SCORES)
    ranked = await walk.paths(Rebase(n=8))
    assert Counter(walk.steps()) == {
        "a": 3,
        "b": 3,
        "c": 2,
        "a l1": 1,
        "a l2": 1,
        "a o": 5,
        "b p": 1,
        "a o e": 3,
        "b p f": 3,
    }
    assert Counter(walk.pruned()) == {"a": 2, "b": 2, "c": 2, "a o": 4}
    assert Counter(walk.judged()) == Counter(set(walk.steps()))
    assert len(ranked) == 8


async def test_the_balance_turns_from_the_best_alone_to_all_alike() -> None:
    async def second_steps(balance: float) -> Counter[str]:
        children = {"": ["a", "b"], "a": ["x"], "b": ["y"]}
        walk = Walk.through(children, {"a": 0.6, "b": 0.5})
        await walk.paths(Rebase(n=8, balance=balance))
        return Counter(walk.steps()[8:])

    assert await second_steps(0.01) == {"a x": 8}
    assert await second_steps(100) == {"a x": 4, "b y": 4}
    assert await second_steps(0.2) == {"a x": 5, "b y": 3}  # softmax of 3, 2.5: .622, .378


async def test_replies_that_could_not_be_scored_share_what_scored_ones_leave() -> None:
    children = {"": ["a", "b"], "a": ["x"], "b": ["y"]}
    walk = Walk.through(children, {"b": 0.01})
    await walk.paths(Rebase(n=4))
    assert walk.steps()[4:] == ["b y"] * 4
    walk = Walk.through(children, {})
    await walk.paths(Rebase(n=4))
    assert sorted(walk.steps()[4:]) == ["a x", "a x", "b y", "b y"]
