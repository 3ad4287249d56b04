"""Preferences without pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Labelled

if TYPE_CHECKING:
    from training.run import Run


class KTO(Method):
    """Make desirable replies likelier and undesirable ones less likely, as people weigh gain, loss.

    KTO, 2402.01306, by TRL: λ (1 − σ(± β (log π/π_ref(y) − z))), where z is the divergence from
    the reference, estimated from replies that answer other prompts of the batch. A reply is
    desirable if its label is at least `threshold`.
    """

    type: Literal["kto"] = "kto"
    paper: ClassVar[str] = (
        "Ethayarajh et al., KTO: Model Alignment as Prospect Theoretic Optimization, 2402.01306"
    )
    family: ClassVar[Family] = "preference"
    rows: ClassVar[RowClass] = Labelled

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW; 10 times that for LoRA.")
    beta: float = Field(0.1, gt=0, description="β: how strongly the reference holds the policy.")
    desirable_weight: float = Field(
        1.0, gt=0, description="λ_D. λ_D n_D / λ_U n_U should be between 1 and 4/3."
    )
    undesirable_weight: float = Field(1.0, gt=0, description="λ_U.")
    threshold: float = Field(0.5, gt=0, le=1, description="The least label that is desirable.")

    def train(self, run: Run) -> None:
        """Train by TRL. Raises RunError for batches of one row."""
        from training.preference.encoded_trainers import train_kto
        from training.run import RunError

        if run.recipe.training.batch_size < 2:
            raise RunError("kto compares with the batch's other rows: training.batch_size is 1")
        train_kto(
            run,
            [run.encoder.row(row.prompt, row.reply) for row in run.rows],
            [row.label >= self.threshold for row in run.rows],
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
