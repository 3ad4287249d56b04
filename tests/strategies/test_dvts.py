"""Diverse verifier tree search on a tree of texts: independence, worked out by hand."""

from __future__ import annotations

from strategies.dvts import DVTS
from tests.strategies.trees import Walk
from verifiers.types import Sampling

CHILDREN = {
    "": ["a", "b", "c", "d"],  # the first subtree draws a and b, the second c and d
    "a": ["a1", "a2"],
    "b": ["b1", "b2"],
    "c": ["c1", "c2"],
    "d": ["d1", "d2"],
    "d d1": ["e", "f"],
}
SCORES = {
    "a": 0.9,
    "b": 0.8,
    "c": 0.2,
    "d": 0.3,
    "a a1": 0.5,
    "a a2": 0.6,
    "b b1": 0.7,
    "b b2": 0.65,
    "d d1": 0.4,
    "d d2": 0.35,
    "d d1 e": 0.1,
    "d d1 f": 0.15,
}


async def walked(**scores: float) -> tuple[Walk, list[str]]:
    walk = Walk.through(CHILDREN, SCORES | scores)
    return walk, await walk.paths(DVTS(n=4, width=2, select="score"))


async def test_each_subtree_follows_its_own_best_child() -> None:
    # A beam of two would have gone on with a and b, and never with d.
    walk, ranked = await walked()
    assert sorted(walk.steps()) == sorted(
        ["a", "b", "c", "d", "a a1", "a a2", "d d1", "d d2", "d d1 e", "d d1 f"]
    )
    assert sorted(walk.pruned()) == ["b", "c"]
    assert ranked == ["a a2", "a a1", "d d2", "d d1 f", "d d1 e"]


async def test_a_subtree_does_not_change_with_the_scores_of_another() -> None:
    one, _ = await walked()
    other, ranked = await walked(a=0.1)
    second = [step for step in one.steps() if step[0] in "cd"]
    assert second == [step for step in other.steps() if step[0] in "cd"]
    assert "b b1" in other.steps()
    assert "b b1" not in one.steps()
    assert ranked[0] == "b b1"


async def test_a_slow_subtree_holds_no_other() -> None:
    slow = " ".join(["slow"] * 40)
    children = {**CHILDREN, "a": [slow, f"{slow} too"]}
    walk = Walk.through(children, SCORES, sampling=Sampling(500))
    walk.engine.delay = 0.001  # type: ignore[attr-defined]
    await walk.paths(DVTS(n=4, width=2))
    assert walk.steps().index("d d1 e") < walk.steps().index(f"a {slow}")
