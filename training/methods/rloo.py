"""REINFORCE leave-one-out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.on_policy.method import PolicyGradient

if TYPE_CHECKING:
    from torch import Tensor

    from training.on_policy.rounds import Round


class LeaveOneOut(PolicyGradient):
    """REINFORCE whose baseline is the mean reward of the other replies to the same prompt.

    As in the paper, a reply is one action, its KL to the reference part of its reward, and every
    reply trained on once. (TRL's RLOOTrainer takes no rollouts from elsewhere.)
    """

    type: Literal["rloo"] = "rloo"
    paper: ClassVar[str] = "Ahmadian et al., Back to Basics: Revisiting REINFORCE, 2402.14740"

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW.")
    samples: int = Field(4, ge=2, description="k, replies to each prompt of a round.")
    kl: float = Field(0.03, ge=0, description="β, of log π/π_ref of the reply in its reward.")

    @property
    def compared(self) -> bool:
        """Whether there is a KL to the reference."""
        return self.kl > 0

    def credit(self, drawn: Round) -> dict[str, Tensor]:
        """Return each reply's reward, KL included, minus the mean of the others'."""
        from training.losses.advantages import leave_one_out

        totals, batch = drawn.totals, drawn.batch
        if self.compared:
            ratio = (batch["old_logprobs"] - batch["reference_logprobs"]).sum(-1)
            totals = totals - self.kl * ratio.view_as(totals)
        return {"advantages": leave_one_out(totals).flatten()}

    def loss(
        self, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return −A log π(y), a mean over replies."""
        from training.encoding import token_logprobs
        from training.losses.policy_gradient import reinforce

        replies = token_logprobs(model, batch, self.temperature).sum(-1)
        return reinforce(replies, batch["advantages"]).mean(), {}
