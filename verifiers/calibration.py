"""What a score is worth: from a verifier's score to the probability that the reply is right.

Fitted elsewhere (`forethought bench calibrate`); here it is read and applied, in plain Python.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    model_validator,
)
from pydantic_core import from_json

EDGE = 1e-4
"""Scores nearer to 0 or 1 count as this near: of surer ones the log-odds would be without bound."""


def sigmoid(x: float) -> float:
    """Return 1 / (1 + e^-x), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def logit(probability: float) -> float:
    """Return the log-odds, of what lies outside [EDGE, 1 - EDGE] those of the edge."""
    inside = min(max(probability, EDGE), 1 - EDGE)
    return math.log(inside / (1 - inside))


class _Fitted(BaseModel, ABC):
    """What both kinds share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fitted: Mapping[str, Any] = Field(
        default_factory=dict, description="Where it comes from: verifier, pool, figures."
    )

    @abstractmethod
    def probability(self, score: float) -> float:
        """Return the probability, in [0, 1], that a reply of this finite score is right."""


class Temperature(_Fitted):
    """Scale the log-odds: p = σ(logit(score) / temperature + bias).

    With a bias this is Platt scaling (Platt, Probabilistic Outputs for Support Vector Machines,
    1999) on log-odds; without one, temperature scaling (Guo et al., 1706.04599). It is for scores
    that are probabilities.
    """

    kind: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0, allow_inf_nan=False)
    bias: FiniteFloat = 0.0

    def probability(self, score: float) -> float:
        """Scale, move and squash."""
        return sigmoid(logit(score) / self.temperature + self.bias)


class Isotonic(_Fitted):
    """Follow knots, linear between them, flat beyond (Zadrozny and Elkan, KDD 2002).

    Scores may have any range.
    """

    kind: Literal["isotonic"] = "isotonic"
    knots: tuple[tuple[FiniteFloat, Annotated[float, Field(ge=0, le=1)]], ...] = Field(
        min_length=1, description="(score, probability): scores rise, probabilities do not fall."
    )

    @model_validator(mode="after")
    def _rising(self) -> Isotonic:
        for (score, probability), (next_score, next_probability) in pairwise(self.knots):
            if next_score <= score or next_probability < probability:
                raise ValueError(f"the knot at {next_score} does not rise from that at {score}")
        return self

    def probability(self, score: float) -> float:
        """Interpolate between the two knots around the score."""
        right = bisect_right(self.knots, score, key=lambda knot: knot[0])
        if right == 0:
            return self.knots[0][1]
        if right == len(self.knots):
            return self.knots[-1][1]
        (low, below), (high, above) = self.knots[right - 1 : right + 1]
        share = (score - low) / (high - low)
        return below * (1 - share) + above * share


def _read(given: Any) -> Any:
    """Read the file where a path is given."""
    if not isinstance(given, str | Path):
        return given
    try:
        return from_json(Path(given).read_bytes())
    except OSError as error:
        raise ValueError(f"{given}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{given}: not JSON: {error}") from error


Calibration: TypeAlias = Annotated[
    Temperature | Isotonic, Field(discriminator="kind"), BeforeValidator(_read)
]
"""A field's type: the calibration itself, or the path of its JSON file."""
