"""What step search has in common: a reply grown step by step, under a verifier's eye."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import Family, Need, Strategy, Temperature, Width, WorstCase, best_first
from strategies.budget import Budget
from strategies.session import Session
from verifiers.base import Verifier
from verifiers.types import Candidate

SPLITS = {
    "blank_line": ("\n\n",),
    "line": ("\n",),
    "sentence": (". ", ".\n", "? ", "?\n", "! ", "!\n"),
    "tokens": (),
}
"""The strings that end a step."""


class StepSearch(Strategy, ABC):
    """A strategy that grows replies by steps and keeps those that the verifier likes.

    A step ends at its mark, or after `step_tokens` tokens. A branch that ends keeps its place and
    costs nothing more. Before the budget is spent, the search stops and its best branch is
    finished, so that there is a whole answer.
    """

    family: ClassVar[Family] = "search"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.SCORES, Need.STEP_SCORES, Need.CONTINUATION})

    split: Literal["blank_line", "line", "sentence", "tokens"] = Field(
        "blank_line", description="What ends a step."
    )
    mark: str | None = Field(
        None, min_length=1, max_length=64, description="A string that ends a step, instead."
    )
    step_tokens: int = Field(256, ge=1, le=8192, description="Most tokens of a step.")
    max_steps: int = Field(40, ge=1, le=1024, description="Steps after which the search ends.")
    temperature: Temperature = None

    async def rank(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:  # noqa: ARG002
        """Order what has no branches: these hold what they branched from."""
        parents = {each.parent for each in candidates}
        return best_first(each for each in candidates if each.id not in parents)

    async def step(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Go on with each candidate by one step, make equal ones one, and score all."""
        grown = await self.grow(session, candidates)
        first = {each.text: each.id for each in reversed(grown) if not each.done}
        again = [each for each in grown if not each.done and first[each.text] != each.id]
        session.prune(each for each in again if each.tokens)
        return await self.judge(session, [each for each in grown if each not in again])

    async def judge(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Score each candidate where it stands; nothing is asked about what has not begun."""
        begun = any(each.tokens for each in candidates)
        return await session.score(candidates) if begun else list(candidates)

    async def grow(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Go on with each by one step; what was lost or could not be paid is left out.

        Where none could go on, all come back as they were.
        """
        kept = session.kept(candidates)
        grown = await self.extend(session, candidates, self.temperature, kept)
        pairs = list(zip(candidates, grown, strict=True))
        moved = [new for old, new in pairs if new.done or new.tokens > old.tokens]
        if moved:
            session.prune(new for old, new in pairs if new.tokens == old.tokens > 0)
        return moved or grown

    async def extend(
        self,
        session: Session,
        candidates: Sequence[Candidate],
        temperature: float | None,
        keep: int,
    ) -> list[Candidate]:
        """Go on with each by one step; `keep` tokens stay in the budget, to finish one of them."""
        return await session.extend(
            candidates,
            SPLITS[self.split] if self.mark is None else (self.mark,),
            tokens=self.step_tokens,
            keep=keep,
            temperature=temperature,
        )

    async def finish(
        self, session: Session, candidates: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        """Rank what was found, best first; where nothing is finished, finish the best."""
        best, *others = best_first(candidates)
        begun = [each for each in others if each.tokens]
        session.prune(begun)
        return [*await session.conclude(best), *begun]


class FrontierSearch(StepSearch, ABC):
    """A step search that goes on with n replies side by side, and chooses among those that ended.

    It chooses by weighted vote (the sum of the scores of equal answers), or by score where nothing
    has an answer or `select` says so.
    """

    n: Width = 8
    select: Literal["vote", "score"] = Field("vote", description="How to choose in the end.")

    def samples(self, n: int) -> int:  # noqa: ARG002
        """Return the replies that grow side by side; `worst_case` counts their steps."""
        return self.n

    def generations(self) -> int:
        """Return the most times that all replies go on by a step."""
        return self.max_steps

    def worst_case(self, n: int, cap: int, verifier: Verifier | None, budget: Budget) -> WorstCase:  # noqa: ARG002
        """Count every step of every reply as a sample, and one reply that is finished."""
        steps = self.n * self.generations()
        judged = verifier.step_tokens if verifier is not None else 0
        tokens = steps * (min(cap, self.step_tokens) + judged) + cap
        return WorstCase(min(steps + 1, budget.max_calls), min(tokens, budget.max_tokens))

    async def choose(
        self, session: Session, candidates: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        """Rank the finished replies, best first; where there is none, finish the best."""
        done = [each for each in candidates if each.done]
        if not done:
            return await self.finish(session, candidates)
        session.prune(candidates)
        ranked = best_first(done)
        if self.select == "vote":
            votes = await session.votes(done, weighted=True)
            ranked = votes.ranked if votes.classes else ranked
        return list({each.id: each for each in ranked}.values())


def by_score(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Order candidates by score, unscored ones last; ties: finished, likelier, text, id."""
    return sorted(
        candidates,
        key=lambda each: (-each.score, not each.done, -each.mean_logprob, each.text, each.id),
    )
