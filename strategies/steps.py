"""What step search has in common: a reply grown step by step, under a verifier's eye."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import Need, Strategy, Temperature, best_first
from strategies.session import Session
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

    async def step(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Go on with each candidate by one step, and score all."""
        stop = SPLITS[self.split] if self.mark is None else (self.mark,)
        grown = await session.extend(
            candidates, stop, tokens=self.step_tokens, temperature=self.temperature
        )
        return await session.score(grown)

    async def finish(
        self, session: Session, candidates: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        """Rank what was found, best first; where nothing is finished, finish the best."""
        best, *others = best_first(candidates)
        session.prune(others)
        return [*await session.conclude(best), *others]
