"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Conversation, Message

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer

    from training.encoding import Encoder
    from training.run import Run


class SFT(Method):
    """Imitate the assistant's turns: −Σ log π(y_t | y_<t, x) over their tokens alone.

    InstructGPT, 2203.02155. Instructions, dialogues, chains of thought and domains differ in their
    rows only.

    Rows with a `rationale` make two tasks, after Distilling Step-by-Step (2305.02301): the label,
    which is the last reply, and the rationale, which is asked for by `rationale_prefix` before the
    last question: L = L_label + λ L_rationale. The paper marks the label's task by a prefix too;
    ours has none unless `label_prefix` says so, for then every question to the served model must
    have it.
    """

    type: Literal["sft"] = "sft"
    paper: ClassVar[str] = (
        "Ouyang et al., Training Language Models to Follow Instructions, 2203.02155"
    )
    family: ClassVar[Family] = "fine-tuning"
    rows: ClassVar[RowClass] = Conversation

    learning_rate: float = Field(2e-5, gt=0, description="Of AdamW; 10 times that for LoRA.")
    rationale_weight: float = Field(1.0, ge=0, description="λ, of the rationale's loss.")
    label_prefix: str = Field("", description="Before the question; the paper's is '[label] '.")
    rationale_prefix: str = Field("[rationale] ", description="Before the question, for the why.")

    def train(self, run: Run) -> None:
        """Train by TRL; rows with a rationale by their own loss."""
        if any(row.rationale is not None for row in run.rows):
            trainer = self._step_by_step(run)
        else:
            from training.imitation import imitate

            trainer = imitate(run, run.policy(), run.rows)
        metrics = {}
        if run.test_rows:
            metrics["test_loss"] = trainer.evaluate()["eval_loss"]
        run.publish(trainer.model, metrics=metrics)

    def _step_by_step(self, run: Run) -> Trainer:
        from transformers import TrainingArguments

        from training.encoding import token_logprobs
        from training.trainer import LossTrainer

        def loss(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
            mask, rationales = batch["reply_mask"][:, 1:], batch["rationales"]
            whole, label, rationale = step_by_step_loss(
                token_logprobs(model, batch), mask, rationales, self.rationale_weight
            )
            return whole, {"label_loss": label, "rationale_loss": rationale}

        trainer = LossTrainer(
            loss=loss,
            collate=partial(self.collate, run.encoder),
            rows=run.rows,
            test_rows=run.test_rows,
            model=run.policy(),
            args=run.arguments(TrainingArguments),
            processing_class=run.tokenizer,
        )
        run.fit(trainer)
        return trainer

    def collate(self, encoder: Encoder, rows: Sequence[Conversation]) -> dict[str, Tensor]:
        """Make a batch of the rows' labels, then of the rationales of those that have one."""
        import torch

        labels = [encoder.conversation(asked(row.messages, self.label_prefix)) for row in rows]
        rationales = [
            encoder.row(asked(row.messages[:-1], self.rationale_prefix), row.rationale)
            for row in rows
            if row.rationale is not None
        ]
        which = [False] * len(labels) + [True] * len(rationales)
        return {**encoder.batch(labels + rationales), "rationales": torch.tensor(which)}


def step_by_step_loss(
    logprobs: Tensor, mask: Tensor, rationales: Tensor, weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return L_label + λ L_rationale and its two parts (2305.02301, eq. 1 and 3).

    L_label = 1/N Σ ℓ(label_i), L_rationale = 1/N Σ ℓ(rationale_i) over the N labels of the batch,
    ℓ the mean −log π of a row's tokens.

    Args:
        logprobs: (rows, tokens), zero outside of `mask`.
        mask: (rows, tokens), the trained tokens.
        rationales: (rows,), true for rows that are rationales.
        weight: λ.
    """
    losses = -logprobs.sum(-1) / mask.sum(-1)
    count = (~rationales).sum()
    label, rationale = losses[~rationales].sum() / count, losses[rationales].sum() / count
    return label + weight * rationale, label.detach(), rationale.detach()


def asked(messages: Sequence[Message], prefix: str) -> tuple[Message, ...]:
    """Put a prefix before the last question of a conversation."""
    if not prefix:
        return tuple(messages)
    place = max(i for i, message in enumerate(messages) if message.role == "user")
    question = Message(role="user", content=prefix + messages[place].content)
    return (*messages[:place], question, *messages[place + 1 :])
