"""Best-of-N: keep what the verifier likes best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import Need, Parallel, best_first
from strategies.session import Session
from verifiers.types import Candidate


class BestOfN(Parallel):
    """Draw n replies and return the one with the highest score.

    Right where the verifier tells good from bad better than a vote does; wrong answers that the
    verifier likes win more often the larger n is. Unfinished replies come after finished ones,
    equal scores fall to the higher mean log-probability.

    `select`: `weighted` gives each answer the sum of its replies' scores, as `weighted_vote` does
    (2206.02336), and returns the best reply of the best answer. `random` is the baseline that a
    verifier has to beat: any finished reply, none of them scored.
    """

    type: Literal["best_of_n"] = "best_of_n"
    paper: ClassVar[str] = (
        "Cobbe et al., Training Verifiers to Solve Math Word Problems, 2110.14168"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.SCORES})

    select: Literal["max", "weighted", "random"] = Field("max", description="How to choose.")

    def required(self) -> frozenset[Need]:
        """Nothing is scored where the choice is random."""
        return frozenset() if self.select == "random" else self.needs

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Sample, score, rank."""
        candidates = await session.sample(self.n, temperature=self.temperature)
        if self.select == "random":
            shuffled = session.rng.sample(candidates, len(candidates))
            return sorted(shuffled, key=lambda candidate: not candidate.done)
        scored = await session.score(candidates)
        if self.select == "weighted":
            return (await session.votes(scored, weighted=True)).ranked
        return best_first(scored)
