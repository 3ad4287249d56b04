"""The rule `exact`: the answer is the reference, letter by letter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from verifiers.answers import answer_of
from verifiers.base import Verifier
from verifiers.reference import ReferenceFields, reference_of, verdicts
from verifiers.types import Candidate, Powers, Score, Task


class Exact(Verifier):
    """The same string as the reference: of the whole visible reply, or of the marked answer."""

    Fields = ReferenceFields

    type: Literal["exact"] = "exact"
    whole: bool = Field(
        default=False, description="Compare the whole reply, not the answer that it marks."
    )
    ignore_case: bool = Field(default=False, description="Take capitals for small letters.")
    ignore_space: bool = Field(
        default=True, description="Take white space for one space, and for none at the ends."
    )

    async def score(
        self,
        task: Task,
        candidates: Sequence[Candidate],
        powers: Powers,  # noqa: ARG002
    ) -> list[Score]:
        """Score 1 where the strings are the same, else 0."""
        right = self._normal(reference_of(task))
        texts = [self._text(candidate, task) for candidate in candidates]
        return verdicts(None if text is None else self._normal(text) == right for text in texts)

    def _text(self, candidate: Candidate, task: Task) -> str | None:
        if not self.whole:
            return answer_of(candidate, task.prompt)
        return candidate.content if candidate.done else None

    def _normal(self, text: str) -> str:
        text = text.casefold() if self.ignore_case else text
        return " ".join(text.split()) if self.ignore_space else text
