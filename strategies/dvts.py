"""Diverse verifier tree search: several greedy step searches that know nothing of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from strategies.session import Session
from strategies.steps import FrontierSearch, by_score
from verifiers.types import Candidate


class DVTS(FrontierSearch):
    """Grow n/M subtrees, each by M steps at a time of which the best goes on; then vote.

    Beam search with many beams puts them all on what the verifier likes first; independent
    subtrees stay diverse, which pays where n is large. Published: M (`width`) 4, 40 steps,
    temperature 0.8, weighted vote.

    No subtree waits for another, and its texts depend on its own alone. All replies that ended are
    candidates for the answer, the best step's siblings too. Equal steps are made one before they
    are scored. We deviate: there is at least one subtree; the search stops in time to finish its
    best branch within the budget. The subtrees share one budget: only where it ends in mid-search,
    what each could still pay depends on how fast the others are.
    """

    type: Literal["dvts"] = "dvts"
    paper: ClassVar[str] = (
        "Beeching et al., Scaling Test-Time Compute with Open Models, 2024 (no arXiv id)"
    )

    width: int = Field(4, ge=1, le=64, description="M, steps among which a subtree chooses.")

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Grow the subtrees side by side, and choose among all their replies."""
        parts = session.split(max(1, self.n // self.width))
        subtrees = await session.side_by_side(self._subtree(part) for part in parts)
        return await self.choose(session, [each for subtree in subtrees for each in subtree])

    async def _subtree(self, session: Session) -> list[Candidate]:
        """Go on with the best child until it has ended; return it and what ended beside it."""
        ended: list[Candidate] = []
        branches = session.blank(min(self.width, self.n))
        best = branches[0]
        for _ in range(self.max_steps):
            if not session.affords(branches):
                break
            best, *others = by_score(await self.step(session, branches))
            ended += [each for each in others if each.done]
            session.prune(others)
            if best.done:
                break
            branches = session.branch([best], [len(branches)])
        return [*ended, best]
