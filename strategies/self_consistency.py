"""Self-consistency: the answer that most samples agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from strategies.base import Parallel
from strategies.session import Session
from verifiers.types import Candidate


class SelfConsistency(Parallel):
    """Draw n replies and return the best reply of the most frequent final answer.

    Right where answers can be compared (numbers, choices, JSON, tool calls). A reply without an
    answer abstains. The paper draws 40 samples at temperature 0.7 (0.5 for UL2 and LaMDA); the
    default width here is 8, because most of the gain comes early and a client can ask for more.
    """

    type: Literal["self_consistency"] = "self_consistency"
    paper: ClassVar[str] = "Wang et al., Self-Consistency Improves Chain of Thought, 2203.11171"

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Sample, extract the answers, count."""
        votes = await session.votes(await session.sample(self.n, temperature=self.temperature))
        return votes.ranked
