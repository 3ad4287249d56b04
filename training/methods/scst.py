"""Self-critical sequence training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.on_policy.method import PolicyGradient

if TYPE_CHECKING:
    from torch import Tensor

    from training.on_policy.rounds import Round


class SelfCritical(PolicyGradient):
    """REINFORCE with the greedy reply's reward as the baseline: −(r(y) − r(y_greedy)) log π(y).

    The baseline is what the policy would answer when served, at the price of one more reply to each
    prompt. The paper's learning rate is of recurrent captioners; this one is RLOO's.
    """

    type: Literal["scst"] = "scst"
    paper: ClassVar[str] = "Rennie et al., Self-Critical Sequence Training, 1612.00563"
    greedy: ClassVar[bool] = True

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW.")
    samples: int = Field(1, ge=1, description="Replies to each prompt of a round.")

    def credit(self, drawn: Round) -> dict[str, Tensor]:
        """Return r(y) − r(y_greedy), a number for each reply."""
        totals = drawn.totals
        greedy = totals.new_tensor([each.total for each in drawn.greedy])
        return {"advantages": (totals - greedy[:, None]).flatten()}

    def loss(
        self, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return −A log π(y), a mean over replies."""
        from training.encoding import token_logprobs
        from training.losses.policy_gradient import reinforce

        replies = token_logprobs(model, batch, self.temperature).sum(-1)
        return reinforce(replies, batch["advantages"]).mean(), {}
