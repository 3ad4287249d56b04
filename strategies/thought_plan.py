"""The plans of Graph of Thoughts: operations on the thoughts that the one before left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from strategies.base import MAX_SAMPLES


class _Operation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Generate(_Operation):
    """Answer the question `k` times, beside what there is."""

    op: Literal["generate"]
    k: int = Field(4, ge=1, le=64, description="Answers.")


class Score(_Operation):
    """Score what has no score yet."""

    op: Literal["score"]


class KeepBest(_Operation):
    """Go on with the best `n`; ties: the likelier, then by text."""

    op: Literal["keep_best"]
    n: int = Field(1, ge=1, le=64, description="Thoughts kept.")


class Aggregate(_Operation):
    """Merge all thoughts into one, `k` times."""

    op: Literal["aggregate"]
    k: int = Field(1, ge=1, le=64, description="Merged answers.")
    keep: bool = Field(False, description="Go on with what was merged, too.")


class Refine(_Operation):
    """Criticise each thought and write it again."""

    op: Literal["refine"]
    keep: bool = Field(True, description="Go on with the version before, too.")


Operation: TypeAlias = Annotated[
    Generate | Score | KeepBest | Aggregate | Refine, Field(discriminator="op")
]

PLAN: tuple[Operation, ...] = (
    Generate(op="generate", k=4),
    Score(op="score"),
    KeepBest(op="keep_best", n=2),
    Aggregate(op="aggregate", k=1),
    Refine(op="refine"),
    Score(op="score"),
    KeepBest(op="keep_best", n=1),
)


def calls(plan: Sequence[Operation], evaluations: int) -> tuple[int, int]:
    """Return the most calls that a plan takes, and how many of these give an answer."""
    thoughts = made = others = 0
    for operation in plan:
        match operation:
            case Generate(k=k):
                thoughts, made = thoughts + k, made + k
            case Score():
                others += thoughts * evaluations
            case KeepBest(n=n):
                thoughts = min(thoughts, n)
            case Aggregate(k=k, keep=keep):
                thoughts, made = k + thoughts * keep, made + k
            case Refine(keep=keep):
                made, others = made + thoughts, others + thoughts
                thoughts += thoughts * keep
    return made + others, made


def _possible(plan: tuple[Operation, ...]) -> tuple[Operation, ...]:
    if not isinstance(plan[0], Generate):
        raise ValueError("it has to begin with `generate`")
    if calls(plan, 1)[0] > MAX_SAMPLES:
        raise ValueError(f"it takes more than {MAX_SAMPLES} calls")
    return plan


Plan: TypeAlias = Annotated[
    tuple[Operation, ...], Field(min_length=1, max_length=32), AfterValidator(_possible)
]
"""Operations in their order; the first one generates."""
