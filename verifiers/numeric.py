"""The rule `numeric`: the answer is a number close to the reference."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from pydantic import Field, field_validator

from verifiers.answers import answer_of, canonical, extract
from verifiers.base import Verifier
from verifiers.numbers import parse_number
from verifiers.reference import ReferenceFields, verdicts
from verifiers.types import Candidate, Powers, Score, Task


class NumericFields(ReferenceFields):
    """A number, and how far an answer may be from it."""

    tolerance: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Allowed difference, relative to a reference above 1; null: as configured.",
    )

    @field_validator("reference")
    @classmethod
    def _is_number(cls, reference: str) -> str:
        if number(reference) is None:
            raise ValueError("is not a number")
        return reference


class Numeric(Verifier):
    """A number within `tolerance` of the reference; an answer that is no number abstains."""

    Fields = NumericFields

    type: Literal["numeric"] = "numeric"
    tolerance: float = Field(
        default=1e-6,
        ge=0,
        allow_inf_nan=False,
        description="Allowed difference, relative to a reference above 1.",
    )
    lenient: bool = Field(
        default=False, description="Take the last number of a reply that marks no answer."
    )

    async def score(
        self,
        task: Task,
        candidates: Sequence[Candidate],
        powers: Powers,  # noqa: ARG002
    ) -> list[Score]:
        """Score 1 where the answer is close to the reference, else 0."""
        fields = NumericFields.model_validate(dict(task.fields))
        right = number(fields.reference)
        assert right is not None, "validated"
        tolerance = self.tolerance if fields.tolerance is None else fields.tolerance
        margin = Fraction(tolerance) * max(abs(right), Fraction(1))
        numbers = [self._number(candidate, task) for candidate in candidates]
        return verdicts(None if n is None else abs(n - right) <= margin for n in numbers)

    def _number(self, candidate: Candidate, task: Task) -> Fraction | None:
        answer = answer_of(candidate, task.prompt)
        if answer is None and self.lenient and candidate.done:
            answer = extract(candidate.content, lenient=True)
        return None if answer is None else number(answer)


def number(answer: str) -> Fraction | None:
    """Read an answer as an exact number; None if it is something else."""
    return parse_number(canonical(extract(answer) or answer))
