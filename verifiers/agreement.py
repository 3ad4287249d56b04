"""How many others answer the same: free of engine calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from verifiers.base import Verifier
from verifiers.types import Candidate, Powers, Score, Task
from verifiers.votes import gather_votes


class Agreement(Verifier):
    """Score a reply by the share of replies that answer the same, itself among them.

    Of n replies with an answer, k of which are equal, each of these k gets k/n: the frequency that
    self-consistency (2203.11171) takes the highest of, as a score in (0, 1] that can be calibrated
    and combined with others. A reply without an answer is abstained on and counts for nobody.

    Right where wrong answers scatter. It compares candidates, so a lone one agrees with itself.
    """

    type: Literal["agreement"] = "agreement"
    paper: ClassVar[str] = (
        "Wang et al., Self-Consistency Improves Chain of Thought Reasoning, 2203.11171"
    )

    @property
    def joint(self) -> bool:
        """A new candidate changes every share."""
        return True

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Gather equal answers, and give each its share of those that answered."""
        votes = await gather_votes(candidates, task.prompt, powers.equivalence)
        voters = math.fsum(each.weight for each in votes.classes)
        shares = {
            member.id: Score(each.weight / voters)
            for each in votes.classes
            for member in each.members
        }
        return [shares.get(candidate.id, Score(0.0, abstained=True)) for candidate in candidates]
