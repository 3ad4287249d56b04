"""Beam search on a tree of texts, every step of it worked out by hand."""

from __future__ import annotations

from strategies.beam import Beam
from strategies.budget import Stage
from tests.strategies.trees import Walk
from verifiers.types import Sampling

OPEN = {path: ["z"] for path in ("c", "d", "a a1", "b b1")}
CHILDREN = {
    "": ["a", "b", "c", "d"],
    "a": ["a1", "a2"],
    "b": ["b1", "b2"],
    "a a2": ["x", "y"],
    **OPEN,
}
SCORES = {
    "a": 0.9,
    "b": 0.8,
    "c": 0.3,
    "d": 0.2,
    "a a1": 0.4,
    "a a2": 0.7,
    "b b1": 0.6,
    "b b2": 0.65,
    "a a2 x": 0.1,
    "a a2 y": 0.5,
}


async def test_the_best_of_each_generation_survive_and_what_ended_is_free() -> None:
    # n 4, M 2: two are kept. b2 ends at .65 and keeps its place against x and y, at no cost.
    walk = Walk.through(CHILDREN, SCORES)
    ranked = await walk.paths(Beam(n=4, width=2, select="score"))
    assert walk.steps() == [
        *("a", "b", "c", "d"),
        *("b b2", "a a1", "a a2", "b b1"),  # b2 is a token shorter
        *("a a2 x", "a a2 y"),
    ]
    assert walk.pruned() == ["c", "d", "b b1", "a a1"]
    assert ranked == ["b b2", "a a2 y", "a a2 x"]
    assert walk.ledger.usage[Stage.SAMPLE].calls == 10
    assert walk.ledger.usage[Stage.VERIFY].calls == 10


async def test_what_ended_and_lost_its_place_competes_at_the_end() -> None:
    # w ends first at .5, and u and v, at .9 and .8, take both places. Both end badly.
    children = {"": ["w", "u", "v", "t"], "u": ["u1", "u2"], "v": ["v1", "v2"], "t": ["z"]}
    scores = {"w": 0.5, "u": 0.9, "v": 0.8, "u u1": 0.1, "v v1": 0.2, "u u2": 0.05, "v v2": 0.06}
    walk = Walk.through(children, scores)
    ranked = await walk.paths(Beam(n=4, width=2, select="score"))
    assert ranked == ["w", "v v1", "u u1", "v v2", "u u2"]


async def test_equal_steps_are_made_one_before_they_are_scored() -> None:
    children = {"": ["a", "a", "b", "a"], "a": ["a1", "a2"], "b": ["b1", "b1"]}
    scores = {"a": 0.6, "b": 0.7, "b b1": 0.2, "a a1": 0.3, "a a2": 0.4}
    walk = Walk.through(children, scores)
    ranked = await walk.paths(Beam(n=4, width=2, select="score"))
    assert walk.judged() == ["a", "b", "b b1", "a a1", "a a2"]
    assert walk.pruned() == ["a", "a"]
    assert ranked == ["a a2", "a a1", "b b1", "b b1"]  # what has ended is an answer, and votes


async def test_the_vote_adds_up_scores_and_the_score_does_not() -> None:
    children = {"": ["\\boxed{1}", "\\boxed{2}", "so\\boxed{1}", "so\\boxed{3}"]}
    scores = dict(zip(children[""], (0.3, 0.6, 0.4, 0.1), strict=True))
    walk = Walk.through(children, scores)
    assert (await walk.paths(Beam(n=4)))[0] == "so\\boxed{1}"
    votes = walk.request.votes
    assert votes is not None
    assert (votes.answer, votes.agreement) == ("1", 0.5)
    walk = Walk.through(children, scores)
    assert (await walk.paths(Beam(n=4, select="score")))[0] == "\\boxed{2}"
    assert walk.request.votes is None


async def test_where_nothing_has_an_answer_the_score_decides() -> None:
    long = "nothing that looks like any answer at all"
    children = {"": [f"{long} {each}" for each in "abcd"]}
    walk = Walk.through(children, {f"{long} a": 0.1, f"{long} c": 0.9})
    assert [path[-1] for path in await walk.paths(Beam(n=4))][:2] == ["c", "a"]


async def test_a_lookahead_judges_a_step_by_where_it_leads() -> None:
    children = {"": ["a", "b"], "a": ["a1", "a2"], "b": ["b1", "b2"]}
    scores = {"a": 0.9, "b": 0.1, "a a1": 0.2, "a a2": 0.3, "b b1": 0.8, "b b2": 0.5}
    at_once = Walk.through(children, scores)
    assert (await at_once.paths(Beam(n=2, width=2, select="score")))[0] == "a a2"
    walk = Walk.through(children, scores)
    ranked = await walk.paths(Beam(n=2, width=2, select="score", lookahead=1))
    assert walk.judged() == ["a a1", "b b1", "b b2", "b b1"]  # b2 first: b1 was looked at
    assert walk.pruned() == ["a"]
    assert ranked == ["b b1", "b b2"]


SLOW = " ".join(["slow"] * 40)
RACE = {
    "": ["a", "b", "c", "d"],
    "a": [SLOW, f"{SLOW} too"],
    "b": ["b1", "b2"],
    "b b1": ["x", "y"],
    **{path: ["z"] for path in ("c", "d", "b b2")},
}
RACE_SCORES = {"a": 0.9, "b": 0.8, "b b1": 0.7, "b b1 x": 0.6, f"a {SLOW}": 0.5}


async def race(*, asynchronous: bool, seed: int | None = None) -> list[str]:
    walk = Walk.through(RACE, RACE_SCORES, sampling=Sampling(500, seed=seed))
    walk.engine.delay = 0.001  # type: ignore[attr-defined]
    await walk.paths(Beam(n=4, width=2, asynchronous=asynchronous))
    return walk.steps()


async def test_a_free_place_is_refilled_while_others_generate_unless_seeded() -> None:
    waiting, refilling, seeded = [
        await race(asynchronous=False),
        await race(asynchronous=True),
        await race(asynchronous=True, seed=1),
    ]
    assert waiting.index(f"a {SLOW}") < waiting.index("b b1 x")
    assert refilling.index(f"a {SLOW}") > refilling.index("b b1 x")
    assert seeded == waiting
