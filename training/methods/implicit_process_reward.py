"""Process rewards that a model learns from outcomes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.reward_models.reply_verifier import Judge, Judged, ReplyVerifier

if TYPE_CHECKING:
    from torch import Tensor

    from server.checkpoints.store import Checkpoint
    from training.encoding import Encoded
    from training.rows import Labelled
    from training.run import Run


class ImplicitProcessReward(ReplyVerifier):
    """Learn whether replies are right through β log(π(reply) / π_ref(reply)), by cross-entropy.

    Free Process Rewards without Process Labels, 2412.01981 (its variant for single replies with a
    verdict); PRIME, 2502.01456. The ratio summed up to the end of a step then is the value of that
    beginning. The checkpoint is a language model like any policy, of kind `policy` or `lora`: the
    verifier `implicit_process_reward` reads it beside the reference, with the same `beta`. The
    reply's end counts like every token of it.
    """

    type: Literal["implicit_process_reward"] = "implicit_process_reward"
    paper: ClassVar[str] = "Yuan et al., Free Process Rewards without Process Labels, 2412.01981"
    task: ClassVar[str] = "CAUSAL_LM"

    learning_rate: float = Field(5e-7, gt=0, description="Of AdamW; 10 times that for LoRA.")
    beta: float = Field(0.05, gt=0, description="β: log-odds that a nat of log-ratio is worth.")

    def load(self, run: Run) -> Any:
        """Load the language model."""
        return run.policy(self.task)

    def encode(self, run: Run) -> Callable[[Labelled], Encoded]:
        """Write prompt and reply as the policy does."""
        return lambda row: run.encoder.row(row.prompt, row.reply)

    def judge(self, run: Run, model: Any) -> Judge:  # noqa: ARG002
        """Measure the reply by both models."""
        import torch
        from accelerate import PartialState

        from training.losses.reward import outcome
        from training.reward_models.verdicts import reply_logprob

        reference = run.reference().to(PartialState().device)

        def judge(model: Any, batch: Mapping[str, Tensor]) -> Judged:
            with torch.no_grad():
                known = {name: batch[name] for name in batch if name != "inputs_embeds"}
                theirs = reply_logprob(reference, known)
            log_odds = self.beta * (reply_logprob(model, batch) - theirs)
            return Judged(log_odds, outcome(log_odds, batch["label"], batch["weight"]))

        return judge

    def publish(self, run: Run, model: Any, **told: Any) -> Checkpoint | None:
        """Write the adapter, or all weights."""
        return run.publish(model, **told)
