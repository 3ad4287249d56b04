"""What the gate measured: the figures by which a checkpoint is promoted or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from verifiers.manifest import Manifest

Accuracy: TypeAlias = Annotated[FiniteFloat, Field(ge=0, le=1)]
"""Share of the problems solved."""
Difference: TypeAlias = Annotated[FiniteFloat, Field(ge=-1, le=1)]
"""Of two accuracies: 0.01 is one point."""


_OF_POLICIES = ("task", "parent", "strategy", "verifier", "budget", "seed", "confidence")
_OF_VERIFIERS = ("pool", "seed", "confidence")
"""What makes two measurements the same one."""


class EvaluationError(ValueError):
    """A file is no evaluation, or a recipe's gate is none."""


class Measure(BaseModel):
    """A mean over problems with its interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class Evaluation(BaseModel):
    """A checkpoint held against its parent on the same problems, through the server's own API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str = Field(pattern="^[^@]+@[0-9a-f]{12}$", description="`NAME@VERSION`.")
    parent: str = Field(min_length=1, description="What it was compared with: a model's name.")
    task: str = Field(min_length=1, description="The task with its options, as `bench` names it.")
    strategy: Mapping[str, Any] = Field(description="`type` and parameters.")
    verifier: Mapping[str, Any] | None = Field(None, description="`name` and fields.")
    budget: Mapping[str, Any] = Field(default_factory=dict)
    sampling: Mapping[str, Any] = Field(default_factory=dict)
    seed: int
    problems: int = Field(ge=1)
    samples: int = Field(ge=1, description="Of each problem.")
    accuracy: Accuracy
    parent_accuracy: Accuracy
    gain: Difference
    lower: Difference = Field(description="Lower end of the gain's interval.")
    upper: Difference
    confidence: float = Field(0.95, gt=0, lt=1, description="Of the interval.")
    bar: Difference = Field(0.0, description="What `lower` had to reach when it was measured.")
    created_at: AwareDatetime
    measures: Mapping[str, Measure] = Field(
        default_factory=dict, description="What else was measured, by name, at `confidence`."
    )
    protocol: Mapping[str, Any] = Field(
        default_factory=dict, description="What else it takes to repeat it."
    )

    @model_validator(mode="after")
    def _is_an_interval(self) -> Evaluation:
        if self.lower > self.upper:
            raise ValueError("`lower` is above `upper`")
        return self

    @property
    def figures(self) -> str:
        """Say the gain with its interval, in points."""
        return (
            f"gain {points(self.gain)} points, {self.confidence * 100:g} % interval "
            f"{points(self.lower)} to {points(self.upper)}"
        )


def points(difference: float) -> str:
    """Write a difference of accuracies in points, with a sign and one digit."""
    number = f"{difference * 100:+.1f}".replace("-", "\N{MINUS SIGN}")
    return "0.0" if number[1:] == "0.0" else number


def bar_of(manifest: Manifest) -> float:
    """Return what the lower end of the gain must reach: `gate.bar` of the recipe, else 0.

    Raises:
        EvaluationError: the recipe's is no difference of accuracies.
    """
    match manifest.config.get("gate"):
        case {"bar": float() | int() as bar} if -1 <= bar <= 1:
            return float(bar)
        case {"bar": bar}:
            raise EvaluationError(f"gate.bar: {bar!r} is no difference of accuracies in [-1, 1]")
    return 0.0


def departures(evaluation: Evaluation, manifest: Manifest) -> list[str]:
    """Name what was measured in another way than the recipe's gate says: none of it is its gate.

    Fewer problems or samples are no departure: they only make the interval wider.
    """
    said = manifest.config.get("gate") or {}
    gate = {name: value for name, value in said.items() if value is not None}
    told = evaluation.model_dump(mode="json")
    if "pool" in gate:
        told = {**told, "pool": told["sampling"].get("pool")}
        gate = {**gate, "pool": " + ".join(Path(name).name for name in gate["pool"])}
    names = _OF_POLICIES if "task" in gate else _OF_VERIFIERS
    return [name for name in names if name in gate and gate[name] != told[name]]


def read_evaluation(path: Path) -> Evaluation | None:
    """Read a file; None where there is none.

    Raises:
        EvaluationError: it is no evaluation.
    """
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise EvaluationError(f"{path}: {place}: {fault['msg']}") from error
