"""Particle filtering and particle Gibbs on a tree of texts, with the throws of the dice given."""

from __future__ import annotations

from strategies.particle_filter import ParticleFilter
from tests.strategies.test_resampling import Dice
from tests.strategies.trees import Walk
from verifiers.types import Sampling

CHILDREN = {
    "": ["a", "b", "c", "z"],
    "a": ["a1"],
    "b": ["b1"],
    "c": ["c1"],
}
SCORES = {"a": 0.8, "b": 0.5, "c": 0.2, "z": 0.5, "a a1": 0.3, "b b1": 0.6}


async def test_particles_live_by_their_odds_and_finished_ones_are_free() -> None:
    # Odds 4, 1, 1/4, 1: chances end at .64, .8, .84 and 1. The throws take a, b, and z twice.
    walk = Walk.through(CHILDREN, SCORES)
    walk.session.rng = Dice([0.1, 0.7, 0.9, 0.95, 0.0])
    ranked = await walk.paths(ParticleFilter(n=4))
    assert walk.steps() == ["z", "a", "b", "c", "a a1", "b b1"]  # z is a token shorter
    assert walk.pruned() == ["c"]
    assert ranked == ["b b1", "z", "a a1"]


async def test_particles_that_stand_for_the_same_reply_vote_as_often() -> None:
    children = {"": ["\\boxed{1}", "\\boxed{2}", "c"], "c": ["\\boxed{2}"]}
    scores = {"\\boxed{1}": 0.5, "\\boxed{2}": 0.5, "c": 0.5, "c \\boxed{2}": 0.4}
    walk = Walk.through(children, scores)
    walk.session.rng = Dice([0.1, 0.2, 0.9, 0.0])  # 1 twice, c; then 1.0 against 0.4
    outcome = await walk.run(ParticleFilter(n=3, select="vote"))
    assert outcome.answer == "1"
    assert outcome.agreement == 1.0 / 1.4


GIBBS = {
    "": ["a", "b", "c", "d", "e"],
    "a": ["a1"],
    "b": ["b1", "b2", "b3"],
    "c": ["c1"],
    "d": ["d1"],
    "e": ["e1"],
}
FIRST = [0.1, 0.4, 0.9, 0.5]
"""All scores are equal: each of the three goes on, and the second's end, b1, is the reference."""


async def gibbs(*throws: float) -> tuple[Walk, list[str]]:
    walk = Walk.through(GIBBS, dict.fromkeys(("a", "b", "c", "d", "e"), 0.5))
    walk.session.rng = Dice([*FIRST, *throws, 0.0])
    return walk, await walk.paths(ParticleFilter(n=3, iterations=2))


async def test_particle_gibbs_branches_from_its_reference() -> None:
    # d and e are the free particles; the throws take the reference's first step twice.
    walk, ranked = await gibbs(0.9, 0.95)
    assert walk.steps() == ["a", "b", "c", "a a1", "b b1", "c c1", "d", "e", "b b2", "b b3"]
    assert walk.pruned() == ["d", "e"]
    assert sorted(ranked) == ["a a1", "b b1", "b b2", "b b3", "c c1"]


async def test_particle_gibbs_keeps_its_reference_where_the_dice_do_not() -> None:
    walk, ranked = await gibbs(0.1, 0.5)
    assert walk.steps()[6:] == ["d", "e", "d d1", "e e1"]
    assert walk.pruned() == []
    assert "b b1" in ranked


async def test_a_seed_throws_the_same_dice() -> None:
    async def once() -> list[str]:
        walk = Walk.through(GIBBS, {}, sampling=Sampling(64, seed=4))
        await walk.paths(ParticleFilter(n=5, resampling="systematic"))
        return walk.steps()

    assert await once() == await once()
