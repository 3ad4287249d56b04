"""Early-stopping self-consistency: draw windows until one of them agrees with itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import MAX_SAMPLES, Parallel, Width
from strategies.session import Session
from verifiers.types import Candidate
from verifiers.votes import Votes


class EarlyStopping(Parallel):
    """Draw windows of replies until all of one window agree, and return the most frequent answer.

    As `self_consistency`, with fewer samples for easy questions. Every reply drawn votes, those of
    earlier windows too. Published: windows of 5, at most 40 samples, temperature 0.7.

    Said nowhere in the paper: a window with an abstention, with a lost sample, or cut short by the
    budget is not unanimous; a client who wants several answers gets as many before it stops.
    """

    type: Literal["early_stopping"] = "early_stopping"
    paper: ClassVar[str] = (
        "Li et al., Escape Sky-high Cost: Early-stopping Self-Consistency, 2401.10480"
    )

    n: Width = 40
    window: int = Field(5, ge=2, le=MAX_SAMPLES, description="Samples that have to agree.")

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Draw a window, count all, stop where the window is of one mind."""
        drawn: list[Candidate] = []
        for start in range(0, self.n, self.window):
            width = min(self.window, self.n - start)
            window = await session.sample(width, temperature=self.temperature)
            drawn += window
            votes = await session.votes(drawn)
            early = session.n <= len(drawn) and start + width < self.n
            if early and self._unanimous(window, votes):
                session.decided()
                break
        return votes.ranked

    async def rank(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Let all that was drawn before the budget ended vote."""
        return (await session.votes(candidates)).ranked

    def _unanimous(self, window: Sequence[Candidate], votes: Votes) -> bool:
        """Whether a full window is in one class of equal answers."""
        voters = {candidate.id for candidate in window}
        classes = [{member.id for member in each.members} for each in votes.classes]
        return len(window) == self.window and any(voters <= members for members in classes)
