"""Sequential revision: try again with the earlier attempts in sight."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import MAX_SAMPLES, Family, Need, Strategy, Temperature, best_first
from strategies.conversation import MAX_PROMPT, asked, newest_first, said
from strategies.session import Session
from verifiers.types import Candidate

REVISE = """\
That may be wrong. Look for the first mistake, if there is one, and answer again, completely and \
in the form that was asked for."""


class SequentialRevision(Strategy):
    """Draw a chain of attempts, each one with the last ones before it in sight, and choose.

    The paper's revision model sees up to 4 attempts, is run for 64 and chooses by majority or
    verifier over all of them, because a right attempt may be revised into a wrong one. `chains`
    side by side is its ratio of parallel to sequential; no fewer than the client wants answers.
    Its model is fine-tuned to revise, ours is asked to, so expect less. `select`: `majority` of
    all attempts, as in the paper; `score`, the highest (the paper adds up scores of equal answers
    first); `last`, the newest finished one. Ties fall as in self_consistency and best_of_n.
    """

    type: Literal["sequential_revision"] = "sequential_revision"
    family: ClassVar[Family] = "sequential"
    paper: ClassVar[str] = "Snell et al., Scaling LLM Test-Time Compute Optimally, 2408.03314"

    n: int = Field(8, ge=1, le=MAX_SAMPLES, description="Attempts in a chain.")
    chains: int = Field(1, ge=1, le=MAX_SAMPLES, description="Chains side by side.")
    context: int = Field(4, ge=1, le=64, description="Earlier attempts that are shown.")
    select: Literal["majority", "score", "last"] = Field(
        "majority", description="Which of all replies is the answer."
    )
    temperature: Temperature = None
    revise: str = Field(
        REVISE, min_length=1, max_length=MAX_PROMPT, description="Asks for the next attempt."
    )

    def samples(self, n: int) -> int:
        """All attempts of all chains."""
        return max(self.chains, n) * self.n

    def required(self) -> frozenset[Need]:
        """Selection by score needs scores."""
        return frozenset({Need.SCORES}) if self.select == "score" else frozenset()

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Draft each chain, revise, choose among all attempts."""
        drafts = await session.sample(max(self.chains, session.n), temperature=self.temperature)
        chains = [[draft] for draft in drafts]
        parts = session.split(len(chains))
        await session.side_by_side(map(self._revise, parts, chains))
        return await self.rank(session, list(chain.from_iterable(chains)))

    async def rank(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Order attempts as `select` says."""
        if self.select == "majority":
            return (await session.votes(candidates)).ranked
        if self.select == "score":
            return best_first(await session.score(candidates))
        return newest_first(candidates)

    async def _revise(self, session: Session, attempts: list[Candidate]) -> None:
        while len(attempts) < self.n and not session.spent:
            messages = list(session.prompt.messages)
            for attempt in attempts[-self.context :]:
                messages += [said(attempt), asked(self.revise)]
            fork = session.fork(messages, answers=True, formats=True)
            attempts += await fork.sample(1, temperature=self.temperature)
