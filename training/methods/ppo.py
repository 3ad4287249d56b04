"""Proximal policy optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.on_policy.method import PolicyGradient

if TYPE_CHECKING:
    from torch import Tensor

    from training.on_policy.rounds import Round


class PPO(PolicyGradient):
    """Several epochs on a round's replies, the ratio to the policy that drew them clipped.

    −min(ρA, clip(ρ, 1 ± ε) A) + c (V − G)², ρ = π/π_old; A by GAE (1506.02438), each token rewarded
    with −β log π_old/π_ref and the last one with the reply's reward too (InstructGPT, 2203.02155).
    As in PPO's paper, policy and value share a network; InstructGPT has two. A reply that was cut
    off is an end like any other. Advantages are normalised over the replies of each process.
    """

    type: Literal["ppo"] = "ppo"
    paper: ClassVar[str] = "Schulman et al., Proximal Policy Optimization, 1707.06347"
    valued: ClassVar[bool] = True

    learning_rate: float = Field(3e-6, gt=0, description="Of AdamW.")
    samples: int = Field(1, ge=1, description="Replies to each prompt of a round.")
    epochs: int = Field(4, ge=1, description="How often a round's replies are trained on.")
    steps: int = Field(1, ge=1, description="Optimizer steps that share out a round's replies.")
    clip: float = Field(0.2, gt=0, lt=1, description="ε, of the ratio π/π_old.")
    value_clip: float = Field(0.2, gt=0, description="How far V may move from the round's own.")
    value_weight: float = Field(0.1, ge=0, description="c, of the value's loss.")
    discount: float = Field(1.0, gt=0, le=1, description="γ.")
    lam: float = Field(0.95, ge=0, le=1, description="λ of GAE.")
    kl: float = Field(0.05, ge=0, description="β, of the KL to the reference in tokens' rewards.")
    normalise: bool = Field(True, description="Advantages to mean 0 and deviation 1 over tokens.")

    @property
    def iterations(self) -> int:
        """The epochs."""
        return self.epochs

    @property
    def minibatches(self) -> int:
        """The optimizer steps of an epoch."""
        return self.steps

    @property
    def compared(self) -> bool:
        """Whether there is a KL to the reference."""
        return self.kl > 0

    def credit(self, drawn: Round) -> dict[str, Tensor]:
        """Return advantages by GAE, and the returns to fit the value to."""
        from training.losses.advantages import generalised_advantages, shaped_rewards, whitened

        batch, mask = drawn.batch, drawn.mask
        old = batch["old_logprobs"]
        reference = batch.get("reference_logprobs", old)
        rewards = shaped_rewards(drawn.totals.flatten(), old, reference, mask, self.kl)
        advantages, returns = generalised_advantages(
            rewards, batch["old_values"], mask, self.discount, self.lam
        )
        if self.normalise:
            advantages = whitened(advantages, mask)
        return {"advantages": advantages, "returns": returns}

    def loss(
        self, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return the clipped surrogate and the value's loss, means over tokens."""
        from training.losses.policy_gradient import clipped_surrogate, clipped_values
        from training.on_policy.value_head import reply_values

        mask, tokens = batch["reply_mask"][:, 1:], batch["mean_tokens"].clamp(min=1)
        now = reply_values(model, batch, self.temperature)
        surrogate = clipped_surrogate(
            now.logprobs, batch["old_logprobs"], batch["advantages"], mask, self.clip, self.clip
        )
        fit = clipped_values(now.values, batch["old_values"], batch["returns"], self.value_clip)
        policy_loss = (surrogate.loss * mask).sum() / tokens
        value_loss = (fit * mask).sum() / tokens
        return policy_loss + self.value_weight * value_loss, {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "clip_fraction": surrogate.clipped.sum() / tokens,
        }
