"""Trust-region policy optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.on_policy.method import PolicyGradient

if TYPE_CHECKING:
    from torch import Tensor

    from training.on_policy.rounds import Round
    from training.run import Run


class TRPO(PolicyGradient):
    """The largest gain of E[ρA] with E[KL(π_old‖π)] ≤ δ: conjugate gradients, then a line search.

    Second derivatives and whole distributions are kept, in float32: for tiny nets, as a yardstick
    of PPO. The baseline is the mean of the other replies to the prompt, where the paper fits a
    value. One process, one forward pass a step.
    """

    type: Literal["trpo"] = "trpo"
    paper: ClassVar[str] = "Schulman et al., Trust Region Policy Optimization, 1502.05477"

    learning_rate: float = Field(
        1.0, gt=0, le=1, description="The share of the region that the first step tried takes."
    )
    samples: int = Field(8, ge=2, description="Replies to each prompt of a round.")
    radius: float = Field(0.01, gt=0, description="δ, of the mean KL.")
    damping: float = Field(0.1, ge=0, description="Added to the Fisher matrix's diagonal.")
    cg_iterations: int = Field(10, ge=1, description="Of conjugate gradients.")
    halvings: int = Field(10, ge=1, description="Tries of the line search, each half as long.")

    def credit(self, drawn: Round) -> dict[str, Tensor]:
        """Return each reply's reward minus the mean of the others'."""
        from training.losses.advantages import leave_one_out

        return {"advantages": leave_one_out(drawn.totals).flatten()}

    def loss(
        self, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return −E[ρA], a mean over tokens."""
        from training.encoding import token_logprobs

        mask = batch["reply_mask"][:, 1:]
        ratio = (token_logprobs(model, batch, self.temperature) - batch["old_logprobs"]).exp()
        return -(ratio * batch["advantages"][:, None] * mask).sum() / batch["mean_tokens"], {}

    def train(self, run: Run) -> None:
        """Train by the trust region. Raises RunError where a step would see part of a round."""
        from training.on_policy.trainer import train_on_policy
        from training.on_policy.trust_region_trainer import TrustRegionTrainer
        from training.run import RunError

        arguments = run.recipe.training
        if arguments.accumulate > 1:
            raise RunError("trpo takes a round in one forward pass: accumulate must be 1")
        train_on_policy(
            run,
            self,
            # Fused attention has no second derivative.
            model=run.policy(attn_implementation="eager"),
            trainer_class=TrustRegionTrainer,
            bf16=False,
        )
