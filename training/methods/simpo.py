"""Simple preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Pair

if TYPE_CHECKING:
    from training.run import Run


class SimPO(Method):
    """Prefer the chosen reply by a margin, length for length: −log σ(β (p+ − p−) − γ).

    SimPO, 2405.14734; p is the mean log-probability of a reply's tokens, which is also what
    decoding goes by. No reference holds the policy: a small learning rate does.
    """

    type: Literal["simpo"] = "simpo"
    paper: ClassVar[str] = (
        "Meng et al., SimPO: Simple Preference Optimization with a Reference-Free Reward, "
        "2405.14734"
    )
    family: ClassVar[Family] = "preference"
    rows: ClassVar[RowClass] = Pair

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW; 10 times that for LoRA.")
    beta: float = Field(2.5, gt=0, description="β: scale of the mean log-probability.")
    gamma: float = Field(1.375, ge=0, description="γ: the margin; the paper tunes γ/β, here 0.55.")

    def train(self, run: Run) -> None:
        """Train by our loss."""
        from training.losses.preference import simpo_loss
        from training.preference.pairs import train_on_pairs

        train_on_pairs(
            run,
            lambda chosen, rejected: simpo_loss(chosen.mean, rejected.mean, self.beta, self.gamma),
        )
