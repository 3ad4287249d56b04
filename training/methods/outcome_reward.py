"""Outcome reward models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.reward_models.reply_verifier import Judge, Judged, ReplyVerifier
from verifiers.manifest import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from server.checkpoints.store import Checkpoint
    from training.encoding import Encoded
    from training.rows import Labelled
    from training.run import Run


class OutcomeReward(ReplyVerifier):
    """Learn whether a reply's final answer is right: cross-entropy of σ(logit) at its last token.

    Cobbe et al., 2110.14168, who also have every token of the reply predict the verdict
    (`token_weight` 1) and train the language model on: we leave that out. Served by the verifier
    `outcome_reward`, whose text it is trained on, token for token.
    """

    type: Literal["outcome_reward"] = "outcome_reward"
    paper: ClassVar[str] = (
        "Cobbe et al., Training Verifiers to Solve Math Word Problems, 2110.14168"
    )
    makes: ClassVar[Kind] = "orm"
    task: ClassVar[str] = "SEQ_CLS"

    learning_rate: float = Field(1e-5, gt=0, description="Of AdamW; 10 times that for LoRA.")
    token_weight: float = Field(
        0.0, ge=0, description="Of the same loss averaged over all tokens of the replies."
    )

    def load(self, run: Run) -> Any:
        """Load the body with a head of one logit."""
        from training.reward_models.reward_head import load_reward_model

        return load_reward_model(run)

    def encode(self, run: Run) -> Callable[[Labelled], Encoded]:
        """Write the conversation with the reply as its last turn."""
        from training.reward_models.reward_head import read_conversation

        read = read_conversation(run.base.path, run.encoder)
        return lambda row: read(row.prompt, row.reply)

    def judge(self, run: Run, model: Any) -> Judge:  # noqa: ARG002
        """Read the head at the last token."""
        from training.losses.reward import outcome
        from training.reward_models.reward_head import TokenRewards, at_last

        rewards = TokenRewards(model)

        def judge(model: Any, batch: Mapping[str, Tensor]) -> Judged:
            every = rewards(model, batch)
            log_odds, labels, weights = at_last(every, batch), batch["label"], batch["weight"]
            loss = outcome(log_odds, labels, weights)
            if self.token_weight:
                rows, mask = batch["reply_mask"].nonzero()[:, 0], batch["reply_mask"]
                loss = loss + self.token_weight * outcome(every[mask], labels[rows], weights[rows])
            return Judged(log_odds, loss)

        return judge

    def publish(self, run: Run, model: Any, **told: Any) -> Checkpoint | None:
        """Write one model, merged."""
        from training.reward_models.reward_head import publish_reward_model

        return publish_reward_model(run, model, **told)
