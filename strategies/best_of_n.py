"""Best-of-N: keep what the verifier likes best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from strategies.base import Need, Parallel, best_first
from strategies.session import Session
from verifiers.types import Candidate


class BestOfN(Parallel):
    """Draw n replies and return the one with the highest score.

    Right where the verifier tells good from bad better than a vote does; wrong answers that the
    verifier likes win more often the larger n is. Unfinished replies come after finished ones,
    equal scores fall to the higher mean log-probability.
    """

    type: Literal["best_of_n"] = "best_of_n"
    paper: ClassVar[str] = (
        "Cobbe et al., Training Verifiers to Solve Math Word Problems, 2110.14168"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.SCORES})

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Sample, score, rank."""
        candidates = await session.sample(self.n, temperature=self.temperature)
        return best_first(await session.score(candidates))
