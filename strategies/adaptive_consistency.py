"""Adaptive consistency: stop sampling once the leading answer has almost certainly won."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import MAX_SAMPLES, Parallel, Width
from strategies.session import Session
from verifiers.types import Candidate
from verifiers.votes import Votes

LEAST = 3
"""Answers before anything may stop, and the least first wave."""


class AdaptiveConsistency(Parallel):
    """Draw waves of replies until the most frequent answer leads beyond doubt, and return it.

    With v1 and v2 replies for the two leading answers, stop where P(θ > ½) is at least
    `confidence`, θ ~ Beta(v1 + 1, v2 + 1). Published: confidence 0.95, at most 40 samples,
    temperature 0.7.

    We deviate. The tail is the exact binomial sum, where the reference code integrates
    numerically. Samples come in waves, not one by one, as a batch is faster. Without a seed, every
    reply counts when it ends, and those still being generated are stopped once the others decide:
    so short replies count first. With a seed, whole waves count, and timing changes nothing.
    Replies without an answer count for nobody, and nothing stops before three answers, or as many
    as the client wants.
    """

    type: Literal["adaptive_consistency"] = "adaptive_consistency"
    paper: ClassVar[str] = "Aggarwal et al., Let's Sample Step by Step, 2305.11860"

    n: Width = 40
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Enough to stop.")
    wave: int = Field(
        4,
        ge=1,
        le=MAX_SAMPLES,
        description="Samples drawn at a time; first at least 3. Few save tokens, n saves time.",
    )

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Draw a wave, count all, stop once that is certain enough."""
        drawn = session.reusable(self.n, temperature=self.temperature)
        first = max(self.wave, LEAST, len(drawn))
        for start, end in pairwise((0, *range(first, self.n, self.wave), self.n)):
            votes = await self._wave(session, end - max(start, len(drawn)), drawn)
            if end < self.n and self._certain(votes, session.n):
                session.decided()
                break
        return votes.ranked

    async def rank(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Let all that was drawn before the budget ended vote."""
        return (await session.votes(candidates)).ranked

    async def _wave(self, session: Session, size: int, drawn: list[Candidate]) -> Votes:
        """Add a wave to what was drawn, and count; leave it where those that have ended decide."""
        ended: dict[str, Candidate] = {}
        async with session.race(session.blank(size), temperature=self.temperature) as race:
            async for candidate in race:
                if session.seeded or not candidate.done or candidate.id in ended:
                    continue
                ended[candidate.id] = candidate
                if len(ended) < size:
                    votes = await session.votes([*drawn, *ended.values()])
                    if self._certain(votes, session.n):
                        session.decided()
                        return votes
        drawn += [candidate for candidate in race.candidates if candidate.tokens]
        return await session.votes(drawn)

    def _certain(self, votes: Votes, wanted: int) -> bool:
        """Whether there are answers enough and the first of them leads beyond doubt."""
        counts = [len(each.members) for each in votes.classes]
        leaders = [*counts, 0, 0][:2]
        return sum(counts) >= max(LEAST, wanted) and lead(*leaders) >= self.confidence


def lead(first: int, second: int) -> float:
    """Return P(θ > ½) for θ ~ Beta(first + 1, second + 1), as a binomial sum."""
    draws = first + second + 1
    return sum(math.comb(draws, j) for j in range(first + 1)) / (1 << draws)
