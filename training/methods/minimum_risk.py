"""Minimum risk training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.on_policy.method import PolicyGradient

if TYPE_CHECKING:
    from torch import Tensor

    from training.on_policy.rounds import Round


class MinimumRisk(PolicyGradient):
    """Lower the expected risk over sampled replies: Σ_S Q(y) Δ(y), Q(y) = p(y)^α / Σ_S p(y)^α.

    The risk Δ is minus the reward. Equal replies count once, as S is a set; the paper puts the
    reference reply into S too, which verifiable tasks do not have. A forward pass takes whole
    groups: `batch_size` is a multiple of `samples`. The paper's learning rate is of recurrent nets.
    """

    type: Literal["minimum_risk"] = "minimum_risk"
    paper: ClassVar[str] = "Shen et al., Minimum Risk Training for NMT, 1512.02433"
    grouped: ClassVar[bool] = True

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW.")
    samples: int = Field(100, ge=2, description="Replies drawn to each prompt for the subset S.")
    alpha: float = Field(5e-3, gt=0, description="α, the sharpness of Q.")

    def credit(self, drawn: Round) -> dict[str, Tensor]:
        """Return the rewards, and which replies are the first of equal ones."""
        totals = drawn.totals.flatten()
        seen = [
            reply.token_ids
            not in [each.token_ids for each in drawn.replies[place - place % drawn.samples : place]]
            for place, reply in enumerate(drawn.replies)
        ]
        return {"rewards": totals, "distinct": totals.new_tensor(seen).bool()}

    def loss(
        self, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return the expected risk, a mean over prompts."""
        from training.encoding import token_logprobs
        from training.losses.policy_gradient import minimum_risk

        replies = token_logprobs(model, batch, self.temperature).sum(-1)
        groups = (-1, self.samples)
        loss = minimum_risk(
            replies.view(groups),
            batch["rewards"].view(groups),
            batch["distinct"].view(groups),
            self.alpha,
        )
        return loss, {"distinct": batch["distinct"].float().mean()}
