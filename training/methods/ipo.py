"""Identity preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Pair

if TYPE_CHECKING:
    from training.run import Run


class IPO(Method):
    """Bring the margin of log-ratios to 1 / 2β, and no further: (margin − 1 / 2β)².

    IPO, 2310.12036, by TRL. Where every pair is always judged alike, DPO's margin grows without
    end; this one stays. Each log-ratio is divided by its reply's tokens, without which β would
    depend on lengths: the paper's formula does not say so, its authors told TRL's that its
    experiments do.
    """

    type: Literal["ipo"] = "ipo"
    paper: ClassVar[str] = (
        "Azar et al., A General Theoretical Paradigm to Understand Learning from Human Preferences,"
        " 2310.12036"
    )
    family: ClassVar[Family] = "preference"
    rows: ClassVar[RowClass] = Pair

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW; 10 times that for LoRA.")
    beta: float = Field(0.1, gt=0, description="The paper's τ.")

    def train(self, run: Run) -> None:
        """Train by TRL."""
        from training.preference.encoded_trainers import train_dpo
        from training.preference.pairs import encode_pair

        pairs = [encode_pair(run.encoder, row) for row in run.rows]
        train_dpo(run, pairs, loss="ipo", beta=self.beta)
