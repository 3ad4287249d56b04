"""Preferences between groups of replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Groups

if TYPE_CHECKING:
    from torch import Tensor

    from training.encoding import Encoded, Encoder
    from training.run import Run


class MultiSample(Method):
    """Compare groups by the means of their log-ratios: a preference for how replies are spread.

    Preference Optimization with Multi-Sample Comparisons, 2410.12138: mDPO, −log σ(β margin), and
    mIPO, (margin − 1 / 2β)², where margin = mean log π/π_ref of the chosen group − that of the
    rejected one. With groups of one they are DPO and IPO; as in `ipo`, mIPO divides log-ratios by
    lengths. The paper's groups have 3 to 5 replies on either side; here sizes may differ.
    """

    type: Literal["multi_sample"] = "multi_sample"
    paper: ClassVar[str] = (
        "Wang et al., Preference Optimization with Multi-Sample Comparisons, 2410.12138"
    )
    family: ClassVar[Family] = "preference"
    rows: ClassVar[RowClass] = Groups

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW; 10 times that for LoRA.")
    loss: Literal["mdpo", "mipo"] = Field("mdpo", description="DPO's loss of means, or IPO's.")
    beta: float = Field(0.1, gt=0, description="β: how strongly the reference holds the policy.")

    def train(self, run: Run) -> None:
        """Train by our loss."""
        import torch
        from transformers import TrainingArguments

        from training.losses.preference import dpo_loss, ipo_loss
        from training.preference.pairs import likelihoods, preferences
        from training.trainer import LossTrainer

        by_length = self.loss == "mipo"
        from_margins = ipo_loss if by_length else dpo_loss

        def loss(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            ours = likelihoods(model, batch)
            with torch.no_grad():
                theirs = likelihoods(reference, batch)
            ratios = ours.mean - theirs.mean if by_length else ours.total - theirs.total
            margins = batch["weights"] @ ratios
            return from_margins(margins, self.beta).mean(), preferences(margins)

        trainer = LossTrainer(
            model=run.policy(),
            args=run.arguments(TrainingArguments),
            loss=loss,
            collate=lambda groups: group_batch(run.encoder, groups),
            rows=[encode_groups(run.encoder, row) for row in run.rows],
            processing_class=run.tokenizer,
        )
        reference = trainer.accelerator.prepare_model(run.reference(), evaluation_mode=True)
        run.fit(trainer)
        run.publish(trainer.model)


class EncodedGroups(NamedTuple):
    """The replies of either side."""

    chosen: Sequence[Encoded]
    rejected: Sequence[Encoded]


def encode_groups(encoder: Encoder, row: Groups) -> EncodedGroups:
    """Encode every reply with the prompt."""
    return EncodedGroups(
        *([encoder.row(row.prompt, each) for each in side] for side in (row.chosen, row.rejected))
    )


def group_batch(encoder: Encoder, groups: Sequence[EncodedGroups]) -> dict[str, Tensor]:
    """Pad all replies into one batch, with `weights` (groups, replies): a margin is a row of them.

    1 / k for each of k chosen replies, −1 / k for each of k rejected ones.
    """
    import torch

    replies = [reply for group in groups for side in group for reply in side]
    weights = torch.zeros(len(groups), len(replies))
    place = 0
    for number, group in enumerate(groups):
        for side, sign in zip(group, (1, -1), strict=True):
            weights[number, place : place + len(side)] = sign / len(side)
            place += len(side)
    return {**encoder.batch(replies), "weights": weights}
