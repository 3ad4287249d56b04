"""Offline reinforcement learning of reasoning, with a value function that is left over."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Labelled
from verifiers.steps import BLANK_LINE, step_ends

if TYPE_CHECKING:
    from torch import Tensor

    from training.encoding import Encoded, Encoder
    from training.preference.policy_and_value import PolicyAndValue
    from training.run import Run


class OREO(Method):
    """Make policy and value consistent by the soft Bellman equation, on replies that are there.

    Offline REasoning Optimization, 2412.16145: (V(s_t) − R_t + β Σ_(i≥t) log π/π_ref)², its
    gradient to the value, and to the policy's action at t (equation 9, with the tail that the
    survey leaves out), + α KL(π‖π_ref). Single labelled replies do, right or wrong: no pairs. R is
    the reply's label, due at its end.

    The value function becomes a second checkpoint, NAME-value of kind prm: V at the end of a step
    says how the reply goes on, and guides step search. It is a network of its own beside the
    policy; with `[adapter]` it has one of the same kind (the paper: LoRA of rank 64 for it alone),
    merged when it is published.
    """

    type: Literal["oreo"] = "oreo"
    paper: ClassVar[str] = (
        "Wang et al., Offline Reinforcement Learning for LLM Multi-Step Reasoning, 2412.16145"
    )
    family: ClassVar[Family] = "preference"
    rows: ClassVar[RowClass] = Labelled

    learning_rate: float = Field(5e-6, gt=0, description="Of AdamW, for the policy.")
    value_learning_rate: float = Field(1e-4, gt=0, description="Of AdamW, for the value.")
    beta: float = Field(0.03, gt=0, description="β: reward that a nat of log-ratio is worth.")
    alpha: float = Field(0.01, ge=0, description="α, of the divergence from the reference.")
    level: Literal["token", "step"] = Field("token", description="What one action is.")
    separator: str = Field(BLANK_LINE, min_length=1, description="Ends a step.")

    def train(self, run: Run) -> None:
        """Train both networks; publish the value, then the policy."""
        from transformers import TrainingArguments

        from training.on_policy.trainer import without_dropout
        from training.preference.policy_and_value import (
            PolicyAndValue,
            PolicyAndValueTrainer,
            load_value,
        )

        reference: Any
        separator = self.separator if self.level == "step" else None
        networks = PolicyAndValue(run.policy(), load_value(run))
        without_dropout(networks)
        trainer = PolicyAndValueTrainer(
            model=networks,
            args=run.arguments(TrainingArguments),
            loss=lambda model, batch: self._loss(model, reference, batch),
            collate=lambda replies: action_batch(run.encoder, replies),
            rows=[encode_actions(run.encoder, row, separator) for row in run.rows],
            value_learning_rate=self.value_learning_rate,
        )
        reference = trainer.accelerator.prepare_model(run.reference(), evaluation_mode=True)
        run.fit(trainer)
        self._publish(run, trainer.parts)

    def _loss(
        self, model: Any, reference: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        from training.losses.offline_reasoning import (
            Decisions,
            divergence,
            oreo_losses,
            row_mean,
        )
        from training.losses.policy_gradient import chosen_logprobs

        tokens = {name: batch[name] for name in ("input_ids", "attention_mask")}
        ids, mask = batch["input_ids"][:, 1:], batch["reply_mask"][:, 1:]
        judged = model(**tokens)
        logits, values = judged.logits[:, :-1].float(), judged.values[:, :-1].float()
        with torch.no_grad():
            theirs = reference(**tokens).logits[:, :-1].float()
        ratios = (chosen_logprobs(logits, ids) - chosen_logprobs(theirs, ids)) * mask
        decisions = Decisions(batch["starts"], batch["ends"])
        losses = oreo_losses(ratios, values, batch["rewards"], decisions, self.beta)
        kl = divergence(logits, theirs, mask)
        numbers = {
            "policy_loss": losses.policy,
            "value_loss": losses.value,
            "kl": kl,
            "value": row_mean(values, mask),
        }
        return losses.policy + losses.value + self.alpha * kl, numbers

    def _publish(self, run: Run, networks: PolicyAndValue) -> None:
        adapter, value = run.recipe.adapter, networks.value
        whole = value if adapter is None else adapter.merged(value)
        run.publish(
            whole, kind="prm", step_mark=self.separator, save=whole.save_pretrained, beside="value"
        )
        run.publish(networks.policy)


class EncodedActions(NamedTuple):
    """A reply as token ids, where its actions begin, and what it is worth."""

    row: Encoded
    starts: Sequence[int]
    """Places in the ids, in order; the first is the reply's first token."""
    reward: float


def encode_actions(encoder: Encoder, row: Labelled, separator: str | None) -> EncodedActions:
    """Encode a reply; its actions are steps that end at the separator, or without one its tokens.

    A token that spans the end of a step belongs to it.
    """
    encoded = encoder.row(row.prompt, row.reply)
    if separator is None:
        return EncodedActions(encoded, range(encoded.start, len(encoded.ids)), row.label)
    places = encoder.tokenizer(
        row.reply + encoder.end, add_special_tokens=False, return_offsets_mapping=True
    )["offset_mapping"]
    tokens = [start for start, _ in places]
    begins = [0, *step_ends(row.reply, separator)[:-1]]
    firsts = dict.fromkeys(bisect_left(tokens, begin) for begin in begins)
    starts = [encoded.start + first for first in firsts if first < len(tokens)]
    return EncodedActions(encoded, starts, row.label)


def action_batch(encoder: Encoder, replies: Sequence[EncodedActions]) -> dict[str, Tensor]:
    """Pad replies: `Encoder.batch` with `rewards`, and `starts` and `ends` as `Decisions` are."""
    import torch

    batch = encoder.batch([each.row for each in replies])
    shape = len(replies), batch["input_ids"].shape[1] - 1
    starts = torch.zeros(shape, dtype=torch.bool)
    ends = torch.zeros(shape, dtype=torch.long)
    for number, each in enumerate(replies):
        # Place t of the log-probabilities is of token t + 1.
        places = [start - 1 for start in each.starts]
        starts[number, places] = True
        ends[number, places] = torch.tensor([*places[1:], len(each.row.ids) - 1])
    rewards = torch.tensor([each.reward for each in replies])
    return {**batch, "rewards": rewards, "starts": starts, "ends": ends}
