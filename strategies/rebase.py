"""REBASE: branches in proportion to what the verifier thinks of each reply so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from strategies.resampling import shares, softmax
from strategies.session import Session
from strategies.steps import FrontierSearch, by_score
from verifiers.types import Candidate


class Rebase(FrontierSearch):
    """Share a width of n among the open replies by the softmax of their scores, step by step; vote.

    Between beam search, which drops all but the best, and sampling, which drops none, at their
    cost. A reply with score R gets round(B·exp(R/T)/Σ exp(R/T)) branches, B the width that is
    left: n less the replies that have ended. Published: temperature T (`balance`) 0.2, weighted
    vote at the end.

    We deviate. Widths rounded one by one need not add up to B: here, from the best reply to the
    worst, each gets its rounded share of what those before it left over, so they do. Equal
    unfinished steps from one state are made one before they are scored, and the width is shared
    among the others. The search stops in time to finish its best branch within the budget.
    """

    type: Literal["rebase"] = "rebase"
    paper: ClassVar[str] = "Wu et al., Inference Scaling Laws (REBASE), 2408.00724"

    balance: float = Field(0.2, gt=0, le=100, description="T; the lower, the more for the best.")

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Grow, score, share the width."""
        ended: list[Candidate] = []
        nodes = branches = session.blank(self.n)
        for _ in range(self.max_steps):
            if not nodes or not session.affords(branches):
                break
            grown = by_score(await self.step(session, branches))
            ended += [each for each in grown if each.done]
            nodes = [each for each in grown if not each.done]
            chances = softmax([each.score / self.balance for each in nodes])
            branches = session.branch(nodes, shares(chances, self.n - len(ended)))
        return await self.choose(session, [*ended, *nodes])
