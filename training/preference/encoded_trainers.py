"""TRL's trainers of preferences on token ids of ours.

Given texts, they write the conversation by the chat template and cut it where prompt and reply
part. The template writes more behind a reply than the model generates (a newline, mostly), and
tokens merge across the border: what would be trained is not what is served. So they get ids.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from training.encoding import Encoded
from training.preference.pairs import EncodedPair

if TYPE_CHECKING:
    from training.run import Run


class EncodedDPOTrainer(DPOTrainer):
    """Takes `prompt_ids`, `chosen_ids` and `rejected_ids`."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class EncodedKTOTrainer(KTOTrainer):
    """Takes `prompt_ids`, `completion_ids`, `KL_completion_ids` and `label`."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def train_dpo(
    run: Run,
    pairs: Sequence[EncodedPair],
    *,
    loss: str,
    beta: float,
    reference: Any = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Train the run's policy on pairs by a loss that TRL has, and publish it.

    `reference` is the run's, where it is loaded already.
    """
    trainer = EncodedDPOTrainer(
        model=run.policy(),
        ref_model=run.reference() if reference is None else reference,
        args=run.arguments(DPOConfig, loss_type=[loss], beta=beta, max_length=None),
        train_dataset=Dataset.from_list([_pair_columns(pair) for pair in pairs]),
        processing_class=run.tokenizer,
    )
    run.fit(trainer)
    run.publish(trainer.model, metrics=metrics)


def train_kto(run: Run, rows: Sequence[Encoded], desirable: Sequence[bool], **own: Any) -> None:
    """Train the run's policy on labelled replies by TRL, and publish it; `own` are KTO's fields.

    The rows are shuffled once: TRL holds them in one order.
    """
    labelled = list(zip(rows, desirable, strict=True))
    random.Random(run.recipe.training.seed).shuffle(labelled)
    columns = mismatched(labelled, run.recipe.training.batch_size)
    trainer = EncodedKTOTrainer(
        model=run.policy(),
        ref_model=run.reference(),
        args=run.arguments(KTOConfig, max_length=None, train_sampling_strategy="sequential", **own),
        train_dataset=Dataset.from_list(columns),
        processing_class=run.tokenizer,
    )
    run.fit(trainer)
    run.publish(trainer.model)


def mismatched(rows: Sequence[tuple[Encoded, bool]], size: int) -> list[dict[str, Any]]:
    """Return KTO's columns: beside each reply, one that answers another prompt of its batch.

    From these the divergence is estimated that rewards are compared with: (x_1, y_n), (x_2, y_1) …
    """
    columns: list[dict[str, Any]] = []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        for place, (row, label) in enumerate(batch):
            other = batch[place - 1][0]
            columns.append(
                {
                    "prompt_ids": row.ids[: row.start],
                    "completion_ids": row.ids[row.start :],
                    "KL_completion_ids": other.ids[other.start :],
                    "label": label,
                }
            )
    return columns


def _pair_columns(pair: EncodedPair) -> dict[str, Any]:
    start = pair.chosen.start
    return {
        "prompt_ids": pair.chosen.ids[:start],
        "chosen_ids": pair.chosen.ids[start:],
        "rejected_ids": pair.rejected.ids[start:],
    }
