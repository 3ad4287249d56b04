"""Contrastive preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Pair

if TYPE_CHECKING:
    from torch import Tensor

    from training.preference.pairs import Likelihoods
    from training.run import Run


class CPO(Method):
    """Prefer the chosen reply without a reference, and imitate it: −log σ(β log π(y+)/π(y−)) + NLL.

    CPO, 2401.08417: DPO with a uniform reference, whose gradient alone would let the chosen reply
    become less likely too; the second term, as in the authors' code the mean over the chosen
    reply's tokens, keeps the policy at it.
    """

    type: Literal["cpo"] = "cpo"
    paper: ClassVar[str] = "Xu et al., Contrastive Preference Optimization, 2401.08417"
    family: ClassVar[Family] = "preference"
    rows: ClassVar[RowClass] = Pair

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW; 10 times that for LoRA.")
    beta: float = Field(0.1, gt=0, description="β: how steep the preference is.")
    likelihood_weight: float = Field(1.0, ge=0, description="Of the chosen reply's likelihood.")

    def train(self, run: Run) -> None:
        """Train by our loss."""
        from training.losses.preference import cpo_loss
        from training.preference.pairs import train_on_pairs

        def loss(chosen: Likelihoods, rejected: Likelihoods) -> Tensor:
            preferred = cpo_loss(chosen.total, rejected.total, self.beta)
            return preferred - self.likelihood_weight * chosen.mean

        train_on_pairs(run, loss)
