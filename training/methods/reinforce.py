"""REINFORCE, and REINFORCE++ by its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.on_policy.method import PolicyGradient

if TYPE_CHECKING:
    from torch import Tensor

    from training.on_policy.rounds import Round


class Reinforce(PolicyGradient):
    """Make replies likelier by how much their reward is above a baseline: −(r − b) log π(y).

    REINFORCE++ (2501.03262): `baseline = "none"`, `normalise = true` and a `kl` above 0; the
    penalty is in each token's reward, and a token is credited with the rewards from it on. As every
    reply is trained on once, its clip would never bind. Normalisation is over the replies of each
    process. The baselines include the reply's own reward, which shortens the gradient by 1/replies.
    """

    type: Literal["reinforce"] = "reinforce"
    paper: ClassVar[str] = "Williams, Simple Statistical Gradient-Following Algorithms, 1992"

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW.")
    samples: int = Field(16, ge=1, description="Replies to each prompt of a round.")
    baseline: Literal["none", "batch", "group"] = Field(
        "group", description="The mean reward of all replies, or of those to the same prompt."
    )
    normalise: bool = Field(False, description="Advantages to mean 0 and deviation 1 over tokens.")
    kl: float = Field(0.0, ge=0, description="β, of the KL to the reference in tokens' rewards.")
    reduction: Literal["sum", "token"] = Field(
        "sum", description="Over a reply's tokens: sum, the gradient itself; or a mean over all."
    )

    @property
    def compared(self) -> bool:
        """Whether there is a KL to the reference."""
        return self.kl > 0

    def credit(self, drawn: Round) -> dict[str, Tensor]:
        """Return the rewards from each token on, above the baseline."""
        from training.losses.advantages import rewards_to_go, shaped_rewards, whitened

        totals, mask, batch = drawn.totals, drawn.mask, drawn.batch
        if self.baseline == "group":
            totals = totals - totals.mean(-1, keepdim=True)
        elif self.baseline == "batch":
            totals = totals - totals.mean()
        old = batch["old_logprobs"]
        reference = batch.get("reference_logprobs", old)
        rewards = shaped_rewards(totals.flatten(), old, reference, mask, self.kl)
        advantages = rewards_to_go(rewards, mask)
        return {"advantages": whitened(advantages, mask) if self.normalise else advantages}

    def loss(
        self, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return −A log π, summed over each reply's tokens."""
        from training.encoding import token_logprobs
        from training.losses.policy_gradient import reduce, reinforce

        losses = reinforce(token_logprobs(model, batch, self.temperature), batch["advantages"])
        mask = batch["reply_mask"][:, 1:]
        loss = reduce(
            losses,
            mask,
            self.reduction,
            mean_tokens=batch["mean_tokens"],
            longest=self.max_tokens,
        )
        return loss, {}
