"""Preferences between replies that the policy has just drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.base import Family
from training.on_policy.method import PolicyGradient

if TYPE_CHECKING:
    from torch import Tensor

    from training.on_policy.rounds import Round


class OnlineDPO(PolicyGradient):
    """Draw replies from the policy as it is, have verifiers judge them, and apply DPO's loss.

    Online AI Feedback, 2402.04792, with two replies to each prompt. Of more than two, the best is
    compared with the worst. Where all are worth the same there is no preference, and nothing is
    learnt from the prompt.
    """

    type: Literal["online_dpo"] = "online_dpo"
    paper: ClassVar[str] = (
        "Guo et al., Direct Language Model Alignment from Online AI Feedback, 2402.04792"
    )
    family: ClassVar[Family] = "preference"
    grouped: ClassVar[bool] = True

    learning_rate: float = Field(5e-7, gt=0, description="Of AdamW; 10 times that for LoRA.")
    samples: int = Field(2, ge=2, description="Replies to each prompt.")
    beta: float = Field(0.1, gt=0, description="β: how strongly the reference holds the policy.")

    @property
    def compared(self) -> bool:
        """The loss is of log-ratios to the reference."""
        return True

    def credit(self, drawn: Round) -> dict[str, Tensor]:
        """Return each reply's side in its prompt's pair: 1 chosen, −1 rejected, 0 neither."""
        return {"side": sides(drawn.totals).flatten()}

    def loss(
        self, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return DPO's loss, a mean over the pairs that there are."""
        from training.encoding import token_logprobs
        from training.losses.preference import dpo_loss

        ours = token_logprobs(model, batch, self.temperature)
        ratios = (ours - batch["reference_logprobs"]).sum(-1)
        margins = (ratios * batch["side"]).view(-1, self.samples).sum(-1)
        judged = batch["side"].view(-1, self.samples).ne(0).any(-1).float()
        pairs = judged.sum().clamp(min=1)
        numbers = {
            "margin": (margins * judged).sum() / pairs,
            "preferred": judged.mean(),
        }
        return (dpo_loss(margins, self.beta) * judged).sum() / pairs, numbers


def sides(totals: Tensor) -> Tensor:
    """Return 1 for the best of a prompt's replies, −1 for the worst, else 0; (prompts, samples).

    All 0 where the best is worth no more than the worst; among equals the first is taken.
    """
    import torch

    found = torch.zeros_like(totals)
    best, worst = totals.max(-1, keepdim=True), totals.min(-1, keepdim=True)
    apart = (best.values > worst.values).to(totals.dtype)
    return found.scatter(-1, best.indices, apart).scatter(-1, worst.indices, -apart)
