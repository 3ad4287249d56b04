"""Particle filtering: replies survive each step with a chance that their scores give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from strategies.resampling import logit, multinomial, softmax, systematic
from strategies.session import Session
from strategies.steps import FrontierSearch
from verifiers.types import Candidate


class ParticleFilter(FrontierSearch):
    """Grow n replies by a step, resample them by softmax(logit(score)), until all have ended.

    Chance keeps some of what the verifier dislikes, so it forgives a verifier that errs more than
    beam search does. Finished particles are resampled as they are and cost nothing. Published: the
    score of the whole reply so far, multinomial resampling after every step, the answer is the
    particle with the highest score (`select`: or a weighted vote).

    `iterations` above 1 is particle Gibbs: one particle of the last filter, drawn by its weight,
    is the reference; the next filter has n - 1 free particles, and at each step the reference's
    state of that step is resampled along with theirs and never lost. All iterations' final
    particles are candidates for the answer.

    We deviate: `systematic` resampling (less noise) is offered; scores are clipped to (0, 1), so
    verifiers should give probabilities; unscored particles die where others are scored. The search
    stops in time to finish its best branch within the budget.
    """

    type: Literal["particle_filter"] = "particle_filter"
    paper: ClassVar[str] = "Puri et al., Particle-Based Monte Carlo Methods, 2502.01618"

    select: Literal["vote", "score"] = Field("score", description="How to choose in the end.")
    resampling: Literal["multinomial", "systematic"] = Field(
        "multinomial", description="Independent draws, or evenly spaced ones."
    )
    iterations: int = Field(1, ge=1, le=64, description="1: a filter. More: particle Gibbs.")

    def generations(self) -> int:
        """Every iteration takes all steps."""
        return self.max_steps * self.iterations

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Filter, draw a reference, filter again."""
        found: list[Candidate] = []
        reference: list[Candidate] = []
        for _ in range(self.iterations):
            lineage: dict[str | None, Candidate] = {each.id: each for each in reference}
            final = await self._filter(session, reference, lineage)
            if not final:
                break
            found += final
            (drawn,) = session.rng.choices(final, weights(final))
            reference = ancestry(drawn, lineage)
        return await self.choose(session, found or session.blank(1))

    async def _filter(
        self,
        session: Session,
        reference: Sequence[Candidate],
        lineage: dict[str | None, Candidate],
    ) -> list[Candidate]:
        """Return the last particles, the reference's end included; put all states in `lineage`."""
        states: list[Candidate] = []
        fixed: list[Candidate] = []
        moving = particles = session.blank(self.n - bool(reference))
        for step in range(self.max_steps):
            if not moving or not session.affords((moving * self.n)[: self.n]):
                break
            if states:
                particles = self._resampled(session, states, fixed)
            grown = await self.judge(session, await self.grow(session, particles))
            lineage |= {each.id: each for each in grown}
            fixed = [*reference[step:], *reference[-1:]][:1]
            states = [*grown, *fixed]
            moving = [each for each in states if not each.done]
        return states

    def _resampled(
        self, session: Session, states: Sequence[Candidate], fixed: Sequence[Candidate]
    ) -> list[Candidate]:
        """Draw the next particles: branches of open states, finished ones as they are."""
        draw = systematic if self.resampling == "systematic" else multinomial
        counts = draw(weights(states), self.n - len(fixed), session.rng)
        particles: list[Candidate] = []
        for state, count in zip(states, counts, strict=True):
            if state.done:
                particles += [state] * count
            elif count or state not in fixed:
                particles += session.branch([state], [count])
        return particles


def weights(states: Sequence[Candidate]) -> list[float]:
    """Return the weights of particles: softmax(logit(score))."""
    return softmax([logit(each.score) for each in states])


def ancestry(state: Candidate, lineage: Mapping[str | None, Candidate]) -> list[Candidate]:
    """Return the states that led to this one, from the first step on, and itself."""
    path = [state]
    while (before := lineage.get(path[-1].parent)) is not None:
        path.append(before)
    return path[::-1]
