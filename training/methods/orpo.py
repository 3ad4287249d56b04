"""Odds-ratio preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Pair

if TYPE_CHECKING:
    from training.run import Run


class ORPO(Method):
    """Imitate the chosen reply and prefer it at once: NLL(y+) − λ log σ(log odds(y+)/odds(y−)).

    ORPO, 2403.07691; odds(y) = P / (1 − P) with P the geometric mean of a reply's token
    probabilities. It replaces fine-tuning and needs no reference. Both terms are of replies alone,
    as the paper has it; the authors' code imitates prompts too.
    """

    type: Literal["orpo"] = "orpo"
    paper: ClassVar[str] = (
        "Hong et al., ORPO: Monolithic Preference Optimization without Reference Model, 2403.07691"
    )
    family: ClassVar[Family] = "preference"
    rows: ClassVar[RowClass] = Pair

    learning_rate: float = Field(5e-6, gt=0, description="Of AdamW; 10 times that for LoRA.")
    odds_weight: float = Field(0.1, ge=0, description="λ, of the odds ratio.")

    def train(self, run: Run) -> None:
        """Train by our loss."""
        from training.losses.preference import orpo_loss
        from training.preference.pairs import train_on_pairs

        train_on_pairs(
            run,
            lambda chosen, rejected: orpo_loss(chosen.mean, rejected.mean, self.odds_weight),
        )
