"""Confidence tree: leaves drawn in proportion to the model's confidence go on by a step."""

from __future__ import annotations

import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from strategies.base import Need, Width
from strategies.concurrency import keep_busy
from strategies.session import Session
from strategies.steps import StepSearch
from verifiers.types import Candidate


@dataclass(eq=False, slots=True)
class Leaves:
    """What a search has in hand: open leaves by their confidence, and finished replies."""

    open: list[tuple[Candidate, float]]
    finished: list[Candidate] = field(default_factory=list)
    extended: int = 0


class ConfidenceTree(StepSearch):
    """Extend leaves drawn by confidence until n replies are finished, and let these vote.

    A leaf's confidence is the geometric mean token probability of its last step. A leaf is drawn
    in proportion to it and extended by `children` steps, each of them a new leaf; below
    `threshold`, and from the start, where nothing is known, by `extra` more. It ends with n
    finished replies, after `max_steps` leaves, or before the budget is spent; each reply then
    votes with the geometric mean probability of all its tokens. Right without a verifier, where
    the model's doubts say where it pays to look around.

    From the paper come the tree of completions, confidence as the stand-in for quality, and leaves
    drawn in proportion to it; it publishes no defaults. The split into steps, more samples below a
    threshold (the survey 2502.21321, § 5.8, asks for them, without a number), the vote and all
    defaults are ours. Equal siblings become one leaf. `parallel` leaves go on at once, and nobody
    waits for another; with a seed they go in waves, and timing changes nothing.
    """

    type: Literal["confidence_tree"] = "confidence_tree"
    paper: ClassVar[str] = "Wilson, LLM Tree Search, 2410.19117"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.LOGPROBS, Need.CONTINUATION})

    n: Width = 8
    children: int = Field(2, ge=1, le=64, description="Steps drawn from a leaf.")
    extra: int = Field(2, ge=0, le=64, description="Steps more where the confidence is low.")
    threshold: float = Field(0.8, ge=0, le=1, description="Below it, confidence is low.")
    max_steps: int = Field(64, ge=1, le=1024, description="Leaves extended before it ends.")
    parallel: int = Field(4, ge=1, le=64, description="Leaves that go on at once.")

    def samples(self, n: int) -> int:  # noqa: ARG002
        """Count all steps, and the reply that is finished where none was."""
        return self.max_steps * (self.children + self.extra) + 1

    def at_once(self, n: int) -> int:  # noqa: ARG002
        """Count the children of all leaves that are extended."""
        return self.parallel * (self.children + self.extra)

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Draw leaves and extend them, then vote."""
        leaves = Leaves([(session.blank(1)[0], 0.0)])
        await keep_busy(
            lambda: self._start(session, leaves),
            lambda grown: self._take(leaves, *grown),
            self.parallel,
            in_waves=session.seeded,
        )
        rest = [leaf for leaf, _ in leaves.open]
        if not leaves.finished:
            return await self.finish(session, rest or session.blank(1))
        session.prune(rest)
        return (await session.votes(leaves.finished, weighted=True)).ranked

    def _start(
        self, session: Session, leaves: Leaves
    ) -> Coroutine[Any, Any, tuple[Candidate, list[Candidate]]] | None:
        """Draw a leaf and begin to extend it; None where all are drawn, or enough is finished."""
        over = len(leaves.finished) >= self.n or leaves.extended >= self.max_steps
        if over or not leaves.open:
            return None
        weights = [max(confidence, 1e-9) for _, confidence in leaves.open]
        (drawn,) = session.rng.choices(range(len(weights)), weights)
        leaf, confidence = leaves.open[drawn]
        width = self.children + self.extra * (confidence < self.threshold)
        if not session.affords([leaf] * width):
            return None
        del leaves.open[drawn]
        leaves.extended += 1
        return self._extend(session.split(1)[0], leaf, width)

    async def _extend(
        self, session: Session, leaf: Candidate, width: int
    ) -> tuple[Candidate, list[Candidate]]:
        """Draw steps that go on from the leaf."""
        grown = await self.grow(session, session.branch([leaf], [width]))
        moved = [each for each in grown if each.done or each.tokens > leaf.tokens]
        first = {(each.text, each.done): each for each in reversed(moved)}
        session.prune(each for each in moved if first[each.text, each.done] is not each)
        return leaf, list(reversed(first.values()))

    def _take(self, leaves: Leaves, leaf: Candidate, grown: Sequence[Candidate]) -> None:
        """Put new leaves in the place of an old one."""
        for each in grown:
            step = each.logprobs[len(leaf.logprobs) :]
            confidence = math.exp(math.fsum(entry.logprob for entry in step) / max(1, len(step)))
            if each.done:
                leaves.finished.append(replace(each, score=math.exp(each.mean_logprob)))
            else:
                leaves.open.append((replace(each, score=confidence), confidence))
