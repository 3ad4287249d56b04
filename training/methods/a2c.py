"""Advantage actor-critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.on_policy.method import PolicyGradient

if TYPE_CHECKING:
    from torch import Tensor

    from training.on_policy.rounds import Round


class ActorCritic(PolicyGradient):
    """REINFORCE against a learned value, with a bonus for entropy.

    −(G − V) log π + c (G − V)² − ηH, the synchronous form of A3C. A reply is an episode that always
    ends, so the return G is whole and nothing is bootstrapped (the paper cuts episodes into five
    steps). The paper's learning rates are of RMSProp on small nets from the start.
    """

    type: Literal["a2c"] = "a2c"
    paper: ClassVar[str] = "Mnih et al., Asynchronous Methods for Deep RL, 1602.01783"
    valued: ClassVar[bool] = True

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW.")
    samples: int = Field(1, ge=1, description="Replies to each prompt of a round.")
    discount: float = Field(1.0, gt=0, le=1, description="γ.")
    value_weight: float = Field(0.5, ge=0, description="c, of the value's loss.")
    entropy_weight: float = Field(0.01, ge=0, description="η, of the entropy.")
    kl: float = Field(0.0, ge=0, description="β, of the KL to the reference in tokens' rewards.")

    @property
    def compared(self) -> bool:
        """Whether there is a KL to the reference."""
        return self.kl > 0

    def credit(self, drawn: Round) -> dict[str, Tensor]:
        """Return the whole returns, and how far they are above the value."""
        from training.losses.advantages import generalised_advantages, shaped_rewards

        batch, mask = drawn.batch, drawn.mask
        old = batch["old_logprobs"]
        reference = batch.get("reference_logprobs", old)
        rewards = shaped_rewards(drawn.totals.flatten(), old, reference, mask, self.kl)
        advantages, returns = generalised_advantages(
            rewards, batch["old_values"], mask, self.discount, 1.0
        )
        return {"advantages": advantages, "returns": returns}

    def loss(
        self, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return the actor's and the critic's loss, means over tokens."""
        from training.losses.policy_gradient import reinforce
        from training.on_policy.value_head import reply_values

        mask, tokens = batch["reply_mask"][:, 1:], batch["mean_tokens"].clamp(min=1)
        now = reply_values(model, batch, self.temperature)
        policy_loss = (reinforce(now.logprobs, batch["advantages"]) * mask).sum() / tokens
        value_loss = ((now.values - batch["returns"]) ** 2 * mask).sum() / tokens
        entropy = (now.entropy * mask).sum() / tokens
        loss = policy_loss + self.value_weight * value_loss - self.entropy_weight * entropy
        return loss, {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach()}
