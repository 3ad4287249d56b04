"""What a training method is: one class per file of `training/methods/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

import training.methods
from training.rows import Row
from verifiers.discovery import discover
from verifiers.manifest import Kind

if TYPE_CHECKING:
    from training.run import Run

Family: TypeAlias = Literal["fine-tuning", "preference", "policy gradient", "reward model"]
RowClass: TypeAlias = type[Row]
"""`type` by another name: in a class with a field `type`, annotations cannot say it."""


class Method(BaseModel, ABC):
    """Turns data into a checkpoint. The pydantic fields are the recipe's table `[method]`.

    A subclass declares its name as `type: Literal["name"] = "name"`, its parameters with their
    published defaults, and what it reads and makes. torch, transformers, trl and peft are imported
    in `train`, not at the head of the file: a method's description costs nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    paper: ClassVar[str] = ""
    """Where the method comes from: title and arXiv id."""
    family: ClassVar[Family]
    rows: ClassVar[RowClass]
    """The rows that it reads."""
    makes: ClassVar[Kind] = "policy"
    """The kind of its checkpoint; a policy with an adapter becomes `lora`."""
    on_policy: ClassVar[bool] = False
    """Whether it draws replies while it trains: the recipe then says `[rollouts]`."""
    rewarded: ClassVar[bool] = False
    """Whether verifiers judge what it draws: the recipe then says `[[rewards]]`."""

    learning_rate: float = Field(gt=0, description="Of AdamW, at its highest.")

    @property
    def reads(self) -> RowClass:
        """The rows that it reads with these parameters."""
        return self.rows

    @property
    def draws(self) -> bool:
        """Whether it draws replies with these parameters."""
        return self.on_policy

    @abstractmethod
    def train(self, run: Run) -> None:
        """Train, and have `run` publish what came of it."""


def method_classes() -> dict[str, type[Method]]:
    """Return every method of this package by its name."""
    return discover(training.methods, Method)  # type: ignore[type-abstract]
