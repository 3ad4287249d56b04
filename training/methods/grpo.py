"""Group-relative policy optimisation, and what descends from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.on_policy.method import PolicyGradient

if TYPE_CHECKING:
    from torch import Tensor

    from training.losses.policy_gradient import Reduction
    from training.on_policy.rounds import Round
    from training.run import Run

REDUCTIONS: dict[str, Reduction] = {"grpo": "reply", "dapo": "token", "dr_grpo": "constant"}


class GRPO(PolicyGradient):
    """PPO's clip with a group's rewards as the baseline: A = (r − mean) / std over n replies.

    The KL to the reference is in the loss, by the k3 estimator at each token. Relatives by option:

    - Dr. GRPO (2503.20783): `loss_type = "dr_grpo"`, `scale_rewards = "none"`, `kl = 0`.
    - DAPO (2503.14476): `loss_type = "dapo"`, `clip_high = 0.28`, `kl = 0`,
      `mask_truncated = true` (or a reward that penalises length), `redraws` above 0.
    - GSPO (2507.18071): `importance = "sequence"`, `clip = 3e-4`, `clip_high = 4e-4`, `kl = 0`.

    Outcome supervision trains by TRL's GRPOTrainer; process supervision, of a verifier that scores
    steps, and redraws by our own loop, as TRL has neither. A redrawn prompt is any other, and the
    last redraw counts whatever it brings: DAPO goes on until the batch is full.
    """

    type: Literal["grpo"] = "grpo"
    paper: ClassVar[str] = "Shao et al., DeepSeekMath, 2402.03300"

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW.")
    samples: int = Field(64, ge=2, description="G, replies to each prompt of a round.")
    max_tokens: int = Field(1024, ge=1, description="Of a reply.")
    kl: float = Field(0.04, ge=0, description="β, of the KL to the reference in the loss.")
    clip: float = Field(0.2, gt=0, lt=1, description="ε, below.")
    clip_high: float | None = Field(None, gt=0, description="ε, above. Default: the same.")
    updates: int = Field(1, ge=1, description="How often a round's replies are trained on.")
    steps: int = Field(1, ge=1, description="Optimizer steps that share out a round's replies.")
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = Field(
        "grpo", description="Mean over replies of means over tokens; over tokens; over the longest."
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="Whose standard deviation divides."
    )
    importance: Literal["token", "sequence"] = Field("token", description="What ρ is a ratio of.")
    supervision: Literal["outcome", "process"] = Field(
        "outcome", description="process: a token is credited with the steps from it on."
    )
    step_mark: str = Field("\n\n", min_length=1, description="process: what ends a step.")
    mask_truncated: bool = Field(False, description="Leave replies out that were cut off.")
    redraws: int = Field(0, ge=0, description="Of prompts whose replies are all worth the same.")

    @property
    def iterations(self) -> int:
        """The updates."""
        return self.updates

    @property
    def minibatches(self) -> int:
        """The optimizer steps of an update."""
        return self.steps

    @property
    def replacements(self) -> int:
        """The redraws."""
        return self.redraws

    @property
    def compared(self) -> bool:
        """Whether there is a KL to the reference."""
        return self.kl > 0

    @property
    def high(self) -> float:
        """The ε above."""
        return self.clip if self.clip_high is None else self.clip_high

    def train(self, run: Run) -> None:
        """Train by TRL, or by our own loop where TRL cannot."""
        if self.supervision == "outcome" and not self.redraws:
            from training.on_policy.grpo_trainer import train_by_trl

            train_by_trl(run, self)
        else:
            super().train(run)

    def credit(self, drawn: Round) -> dict[str, Tensor]:
        """Return advantages within groups, and which tokens count."""
        from training.losses.advantages import group_relative

        mask = drawn.mask
        if self.supervision == "process":
            from training.on_policy.step_credit import step_advantages

            advantages = step_advantages(drawn, self.step_mark)
        else:
            advantages = group_relative(drawn.totals, self.scale_rewards).view(-1, 1) * mask
        if self.mask_truncated:
            whole = [reply.finish_reason != "length" for reply in drawn.replies]
            mask = mask & mask.new_tensor(whole)[:, None]
        return {"advantages": advantages, "counted": mask}

    def loss(
        self, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return the clipped surrogate with the KL to the reference."""
        from training.encoding import token_logprobs
        from training.losses.policy_gradient import clipped_surrogate, k3, reduce

        mask, old = batch["counted"], batch["old_logprobs"]
        logprobs = token_logprobs(model, batch, self.temperature)
        losses, clipped = clipped_surrogate(
            logprobs, old, batch["advantages"], mask, self.clip, self.high, self.importance
        )
        if self.compared:
            losses = losses + self.kl * k3(logprobs, batch["reference_logprobs"])
        loss = reduce(
            losses,
            mask,
            REDUCTIONS[self.loss_type],
            mean_tokens=batch["mean_tokens"],
            longest=self.max_tokens,
        )
        return loss, {"clip_fraction": clipped.sum() / mask.sum().clamp(min=1)}
