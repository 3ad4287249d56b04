"""Weighted vote: agreement, weighed by how good each reply is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from strategies.base import Need, Parallel
from strategies.session import Session
from verifiers.types import Candidate


class WeightedVote(Parallel):
    """Draw n replies and return the best reply of the answer with the largest sum of scores.

    Between best-of-n and self-consistency: with equal scores it is the latter. Scores should be
    probabilities; below 0 they count as 0. Where nothing could be scored, every vote weighs 1.
    """

    type: Literal["weighted_vote"] = "weighted_vote"
    paper: ClassVar[str] = "Li et al., Making Large Language Models Better Reasoners, 2206.02336"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.SCORES})

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Sample, score, add up the scores of equal answers."""
        candidates = await session.sample(self.n, temperature=self.temperature)
        votes = await session.votes(await session.score(candidates), weighted=True)
        return votes.ranked
