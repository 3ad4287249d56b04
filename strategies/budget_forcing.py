"""Budget forcing: end the model's thinking early, or make it go on by "Wait"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import Family, Need, Strategy, WorstCase, best_first
from strategies.budget import Budget
from strategies.conversation import MAX_PROMPT, apart
from strategies.session import Session
from verifiers.base import Verifier
from verifiers.types import Candidate

MOST_WAITS = 64
"""No thinking is made to go on more often, however short it stays."""


class BudgetForcing(Strategy):
    """Make the model think as long as is wanted: cut its thinking off, or say "Wait" at its end.

    Thinking that reaches `max_thinking` tokens is ended, and `final` is put in for the answer to
    follow. Where the model ends its thinking itself, `wait` takes the end's place: up to `waits`
    times, and while there are fewer than `min_thinking` tokens of it. What is put in costs
    nothing. Wait as the budget allows: what it takes to answer is left.

    Published: 1, 2, 4 or 6 waits; 32,000 of 32,768 tokens to think; temperature 0 (here the
    request's holds). `end_of_thinking` is for models that mark it, such as `</think>`. We deviate:
    without a mark the end of the reply is that of its thinking, so that a plain chat model looks
    at its answer again; a quarter of a reply's cap is left for the answer; no thinking is made to
    go on more than 64 times; what is put in begins a paragraph. Made for models trained to think:
    a small plain one may wait itself out of a right answer.
    """

    type: Literal["budget_forcing"] = "budget_forcing"
    family: ClassVar[Family] = "sequential"
    paper: ClassVar[str] = "Muennighoff et al., s1: Simple test-time scaling, 2501.19393"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CONTINUATION})

    waits: int = Field(2, ge=0, le=MOST_WAITS, description="How often thinking is made to go on.")
    min_thinking: int = Field(0, ge=0, le=1_000_000, description="Tokens: less is made to go on.")
    max_thinking: int = Field(32_000, ge=1, le=1_000_000, description="Tokens: more is cut off.")
    end_of_thinking: str | None = Field(
        None, min_length=1, max_length=64, description="The model's mark; null: its reply's end."
    )
    wait: str = Field("Wait", min_length=1, max_length=MAX_PROMPT, description="Put in to go on.")
    final: str = Field("Final Answer:", max_length=MAX_PROMPT, description="Put in after a cut.")

    def samples(self, n: int) -> int:
        """One for each answer; `worst_case` counts the pieces."""
        return n

    def worst_case(self, n: int, cap: int, verifier: Verifier | None, budget: Budget) -> WorstCase:  # noqa: ARG002
        """Count each piece of thinking as a sample, and the answer after it."""
        pieces = 2 + (MOST_WAITS if self.min_thinking else self.waits)
        return WorstCase(min(n * pieces, budget.max_calls), min(n * cap, budget.max_tokens))

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Force each answer's thinking by itself."""
        parts = session.split(session.n)
        return best_first(await session.side_by_side(map(self._forced, parts)))

    async def _forced(self, session: Session) -> Candidate:
        """Think, wait and think on, cut, answer."""
        mark = self.end_of_thinking or ""
        reply = await self._think(session, session.blank(1))
        for waited in range(MOST_WAITS):
            if not self._too_early(session, reply, waited):
                break
            wait = apart(self.wait, reply.text.removesuffix(mark))
            opened = await session.append([reply], wait, instead_of=mark)
            reply = await self._think(session, opened)
        if reply.tokens and not reply.done and not (mark and reply.text.endswith(mark)):
            final = f"{mark}\n\n{self.final}" if mark else self.final
            (reply,) = await session.append([reply], apart(final, reply.text))
        (answer,) = await session.conclude(reply)
        return answer

    async def _think(self, session: Session, replies: Sequence[Candidate]) -> Candidate:
        """Go on until the thinking ends, or reaches its limit."""
        stop = [self.end_of_thinking] if self.end_of_thinking else []
        rest = self._limit(session) - replies[0].tokens
        (reply,) = await session.extend(replies, stop, tokens=rest, keep=session.kept(replies))
        return reply

    def _too_early(self, session: Session, reply: Candidate, waited: int) -> bool:
        """Whether the thinking came to its own end, but is wanted to go on and can."""
        own = reply.finish_reason == "stop" and reply.stop_reason is None
        marked = reply.stop_reason is not None and reply.stop_reason == self.end_of_thinking
        return (
            (own or marked)
            and waited < (MOST_WAITS if reply.tokens < self.min_thinking else self.waits)
            and reply.tokens < self._limit(session)
            and session.affords([replace(reply, finish_reason=None)])
        )

    def _limit(self, session: Session) -> int:
        return max(1, min(self.max_thinking, session.cap - session.cap // 4))
