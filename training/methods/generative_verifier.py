"""Generative verifiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from training.reward_models.reply_verifier import Judge, Judged, ReplyVerifier
from verifiers.generative import Generative
from verifiers.manifest import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from server.checkpoints.store import Checkpoint
    from training.encoding import Encoded
    from training.rows import Labelled
    from training.run import Run


class GenerativeVerifier(ReplyVerifier):
    """Learn to say Yes or No when asked whether a reply is correct: next-token prediction.

    GenRM, 2408.15240, without rationales, and without its mixture with solutions (`sft` rows make
    that). The question is the one that the verifier `generative` asks, in its own words; a row's
    `reference` is not shown. With LoRA the checkpoint is an adapter of the policy's engine.
    """

    type: Literal["generative_verifier"] = "generative_verifier"
    paper: ClassVar[str] = "Zhang et al., Generative Verifiers, 2408.15240"
    makes: ClassVar[Kind] = "generative"
    task: ClassVar[str] = "CAUSAL_LM"

    learning_rate: float = Field(1e-5, gt=0, description="Of AdamW; 10 times that for LoRA.")
    verifier: Generative = Field(
        Generative(), description="As the verifier is configured that will ask."
    )

    @model_validator(mode="after")
    def _one_token(self) -> GenerativeVerifier:
        if self.verifier.rationale_tokens:
            raise ValueError("verifier.rationale_tokens: only the verdict itself is trained")
        return self

    def load(self, run: Run) -> Any:
        """Load the language model."""
        return run.policy(self.task)

    def encode(self, run: Run) -> Callable[[Labelled], Encoded]:
        """Write what the verifier asks, up to where its verdict begins."""
        from training.reward_models.verdicts import asked_after

        return lambda row: asked_after(self.verifier, row, run.encoder)

    def judge(self, run: Run, model: Any) -> Judge:  # noqa: ARG002
        """Read the verdict's labels in the next token."""
        from training.losses.reward import labelled_token
        from training.reward_models.verdicts import Labels, next_logprobs

        labels = Labels(run.encoder, self.verifier.yes, self.verifier.no)

        def judge(model: Any, batch: Mapping[str, Tensor]) -> Judged:
            logprobs = next_logprobs(model, batch)
            good, bad = logprobs[:, labels.good], logprobs[:, labels.bad]
            loss = labelled_token(good, bad, batch["label"], batch["weight"])
            return Judged(labels.log_odds(logprobs), loss)

        return judge

    def publish(self, run: Run, model: Any, **told: Any) -> Checkpoint | None:
        """Write the adapter, or all weights."""
        return run.publish(model, **told)
