"""Tables that say, by difficulty and budget, what samples are best spent on. They are data.

A table is learned from recorded samples (`forethought bench tune`) and kept as JSON: those in
`tables/` come with the code, the configuration may name more.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Len
from pydantic import BaseModel, ConfigDict, Field, model_validator

Features: TypeAlias = Mapping[str, float]
"""What the probes of a question look like: see `features`."""


class Feature(BaseModel):
    """What a feature adds to the difficulty: `weight` times how far it is from `mean`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: float
    mean: float
    """Over the problems that the table was learned on."""


class Choice(BaseModel):
    """A parallel sampler with its parameters; its width counts the probes."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: Literal["self_consistency", "confidence_vote", "adaptive_consistency", "early_stopping"]
    n: int = Field(ge=1)


class Row(BaseModel):
    """What to do under a budget, by bin, from easy to hard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(gt=0)
    """The least budget that the row is for; smaller ones use the first row."""
    choices: tuple[tuple[Choice, ...], ...]
    """By preference: the first that the engine can run is taken. None: the probes' vote stands."""


class Table(BaseModel):
    """A difficulty, predicted from probes, and for each bin of it what to do."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    provenance: dict[str, Any]
    """From which pools it was learned and how, and what it was worth there."""
    probes: int = Field(ge=2, le=64)
    intercept: float
    features: dict[str, Feature]
    thresholds: tuple[float, ...]
    """Difficulties between the bins, rising."""
    rows: Annotated[tuple[Row, ...], Len(1)]
    """By rising budget."""

    @model_validator(mode="after")
    def _fits_together(self) -> Table:
        if any(len(row.choices) != len(self.thresholds) + 1 for row in self.rows):
            raise ValueError("a row has as many choices as there are bins")
        budgets = [row.max_tokens for row in self.rows]
        if any(one >= two for each in (budgets, self.thresholds) for one, two in pairwise(each)):
            raise ValueError("budgets and thresholds have to rise")
        return self

    def every_choice(self) -> list[Choice]:
        """Return all that it can choose."""
        return [each for row in self.rows for ranked in row.choices for each in ranked]

    def difficulty(self, found: Features) -> float:
        """Predict how often a sample is wrong, 0 to 1; a feature that is missing is average."""
        return self.intercept + math.fsum(
            each.weight * (found[name] - each.mean)
            for name, each in self.features.items()
            if name in found
        )

    def bin(self, found: Features) -> int:
        """Return the question's bin, 0 the easiest."""
        return bisect_right(self.thresholds, self.difficulty(found))

    def choices(self, place: int, max_tokens: int) -> tuple[Choice, ...]:
        """Return what to do in a bin under a budget, by preference."""
        rows = [row for row in self.rows if row.max_tokens <= max_tokens] or self.rows[:1]
        return rows[-1].choices[place]


def features(
    leading: int, answered: int, mean_logprobs: Sequence[float], tokens: Sequence[int]
) -> Features:
    """Describe the probes of a question.

    Args:
        leading: how many give the most frequent answer.
        answered: how many give any.
        mean_logprobs: of each probe, per token; -inf where the engine gives none.
        tokens: of each probe.
    """
    count = len(tokens)
    found = {
        "agreement": leading / count,
        "abstentions": 1 - answered / count,
        "length": math.log(max(1.0, fmean(tokens))),
    }
    known = [math.exp(each) for each in mean_logprobs if math.isfinite(each)]
    return {**found, "confidence": fmean(known)} if known else found


def affordable_width(probes: Sequence[int], tokens: int) -> int:
    """Return how many samples can be had, probes included, if the others are as long.

    Args:
        probes: tokens of each probe.
        tokens: what is left of the budget after them.
    """
    return len(probes) + int(tokens // max(1.0, fmean(probes)))


def read_table(path: Path) -> Table:
    """Read a table.

    Raises:
        OSError: it cannot be read.
        ValidationError: it is not a table.
    """
    return Table.model_validate_json(path.read_text(encoding="utf-8"))


def shipped_tables() -> Mapping[str, Table]:
    """Read the tables that come with the code, by name."""
    kept = (each for each in files("strategies").joinpath("tables").iterdir())
    found = {
        each.name.removesuffix(".json"): Table.model_validate_json(each.read_text(encoding="utf-8"))
        for each in kept
        if each.name.endswith(".json")
    }
    return MappingProxyType(dict(sorted(found.items())))
