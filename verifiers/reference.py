"""What the rule verifiers share: a reference in the request, a verdict on each answer."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from verifiers.answers import canonical_json, structured
from verifiers.base import RequestFields
from verifiers.types import Score, Task


class ReferenceFields(RequestFields):
    """The right answer, known to whoever evaluates."""

    reference: str = Field(
        min_length=1, max_length=10_000, description="The right answer, as a reply would give it."
    )


def reference_of(task: Task) -> str:
    """Return the reference, in canonical form where replies are JSON."""
    reference: str = task.fields["reference"]
    return (canonical_json(reference) or reference) if structured(task.prompt) else reference


def verdicts(correct: Iterable[bool | None]) -> list[Score]:
    """Score 1 for right, 0 for wrong, and an abstention for None: there was no answer."""
    return [Score(float(bool(verdict)), abstained=verdict is None) for verdict in correct]
