"""Mixture of agents: several answer, all are read, and one writes the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from strategies.base import Parallel, Part, Width, WorstCase, attempt, best_first
from strategies.budget import Budget
from strategies.conversation import MAX_PROMPT, fill, holds, question_of, said, with_question
from strategies.inner import InnerStrategy
from strategies.request import Remaining
from strategies.session import Session
from verifiers.base import Verifier
from verifiers.types import Candidate

SYNTHESIS = """\
{question}

---
Other assistants have answered the above. Read their answers critically: any of them may be wrong, \
and so may most of them. Take over what is right, correct what is not, and write the best answer \
of your own, in the form that was asked for, without a word about theirs.

{proposals}"""
"""The question and what stays the same come first, for the prefix cache."""


class Mixture(Parallel):
    """Propose n answers, let each layer read the last one's, and synthesise one answer of them.

    Right where answers are texts that can be better than the best of them, and no vote counts
    them. Layer 1 answers; each layer between has n agents that see all proposals of the layer
    before it and answer anew; the last layer writes the answer, which streams live. With 2 layers
    it is propose-then-synthesise. Unfinished proposals are read only where none is finished. An
    agent may answer by a strategy of its own (`inner`), whose best reply it proposes.

    Published: 3 layers, 6 proposers, temperature .7, six different models, their answers in the
    system message. We deviate: the agents are one model, kept apart by its temperature (the paper's
    single-proposer setting), and the proposals follow the question, so that all layers share its
    prefix. One call is kept for the synthesis, and a layer between is left out where what is left
    could not pay as much as the layer before it cost, and one more reply.
    """

    type: Literal["mixture"] = "mixture"
    paper: ClassVar[str] = "Wang et al., Mixture-of-Agents Enhances LLMs, 2406.04692"

    n: Width = 6
    inner: InnerStrategy | None = Field(
        None, description="A strategy by which each agent proposes. Default: one reply."
    )
    layers: int = Field(3, ge=2, le=8, description="Rounds; the last one writes the answer.")
    prompt: Annotated[
        str,
        Field(max_length=MAX_PROMPT, description="How proposals are shown."),
        holds("question", "proposals"),
    ] = SYNTHESIS

    def parts(self) -> tuple[Part, ...]:
        """Return the agents' strategy."""
        return () if self.inner is None else (Part("inner", self.inner),)

    def samples(self, n: int) -> int:
        """Return the samples of every layer, and the answers that the client wants."""
        return self._samples() * self.n * (self.layers - 1) + n

    def choices(self, n: int) -> int:
        """Return the proposals of a layer, and the answers that the client wants."""
        return self.n + n

    def worst_case(self, n: int, cap: int, verifier: Verifier | None, budget: Budget) -> WorstCase:
        """Add up the agents, and the answers."""
        if self.inner is None:
            return super().worst_case(n, cap, verifier, budget)
        agent = self.inner.worst_case(1, cap, verifier, budget)
        agents = self.n * (self.layers - 1)
        tokens = min(agents * agent.tokens + n * cap, budget.max_tokens)
        return WorstCase(min(agents * agent.samples + n, budget.max_calls), tokens)

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Propose, read and propose again, synthesise."""
        before = session.remaining
        drawn = await self._propose(session)
        for _ in range(self.layers - 2):
            if not _pays_another(before, session.remaining, len(drawn)):
                break
            before = session.remaining
            drawn = await self._propose(self._shown(session, drawn))
        session.report(None)
        if not session.affords([]):
            return best_first(drawn)
        return [*await session.conclude(self._shown(session, drawn), session.n), *best_first(drawn)]

    async def _propose(self, session: Session) -> list[Candidate]:
        """Let each agent answer: by one reply, or by the best one of its strategy."""
        width = max(1, min(self.n, (session.remaining.calls - 1) // self._samples()))
        if self.inner is None:
            return await session.sample(width, temperature=self.temperature)
        agents = session.split(width, speaks=False)
        found = await session.side_by_side(attempt(self.inner, agent) for agent in agents)
        return [ranked[0] for ranked in found]

    def _samples(self) -> int:
        """Return the samples of one agent."""
        return 1 if self.inner is None else self.inner.samples(1)

    def _shown(self, session: Session, drawn: Sequence[Candidate]) -> Session:
        """Ask the question again, below it the proposals in the order of their index."""
        read = [each for each in drawn if each.done] or drawn
        proposals = [
            f"Answer {place}:\n{said(each)['content']}" for place, each in enumerate(read, start=1)
        ]
        messages = session.prompt.messages
        text = fill(self.prompt, question=question_of(messages), proposals="\n\n".join(proposals))
        return session.fork(with_question(messages, text), answers=True, formats=True)


def _pays_another(before: Remaining, left: Remaining, agents: int) -> bool:
    """Tell whether a layer that costs as much leaves enough for one more reply of that length."""
    tokens, calls = before.tokens - left.tokens, before.calls - left.calls
    return left.tokens >= tokens + tokens // agents and left.calls > calls
