"""Pairs of replies as token ids, and training on them by a loss that needs no reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import TrainingArguments

from training.encoding import Encoded, Encoder, token_logprobs
from training.rows import Pair
from training.trainer import LossTrainer

if TYPE_CHECKING:
    from training.run import Run


class EncodedPair(NamedTuple):
    """Two replies to one prompt."""

    chosen: Encoded
    rejected: Encoded


class Likelihoods(NamedTuple):
    """How likely a model finds replies: log-probabilities, (rows,)."""

    total: Tensor
    """Of the whole reply."""
    mean: Tensor
    """Divided by its tokens."""


PairLoss: TypeAlias = Callable[[Likelihoods, Likelihoods], Tensor]
"""From the chosen replies' likelihoods and the rejected ones' to a loss for each pair."""


def encode_pair(encoder: Encoder, row: Pair) -> EncodedPair:
    """Encode both replies, whole; what both begin with as `prefix` is not trained."""
    chosen, rejected = (
        encoder.row(row.prompt, reply, prefix=row.prefix) for reply in (row.chosen, row.rejected)
    )
    return EncodedPair(chosen, rejected)


def pair_batch(encoder: Encoder, pairs: Sequence[EncodedPair]) -> dict[str, Tensor]:
    """Pad pairs into one batch: all chosen replies, then all rejected ones in the same order."""
    return encoder.batch([*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)])


def likelihoods(model: Any, batch: Mapping[str, Tensor]) -> Likelihoods:
    """Measure a batch's replies by a model."""
    total = token_logprobs(model, batch).sum(-1)
    return Likelihoods(total, total / batch["reply_mask"].sum(-1))


def halves(found: Likelihoods) -> tuple[Likelihoods, Likelihoods]:
    """Take the likelihoods of a `pair_batch` apart: chosen, rejected."""
    (chosen, rejected), (chosen_mean, rejected_mean) = (each.chunk(2) for each in found)
    return Likelihoods(chosen, chosen_mean), Likelihoods(rejected, rejected_mean)


def perplexities(model: Any, encoder: Encoder, rows: Sequence[Encoded], size: int) -> list[float]:
    """Return each reply's perplexity under a model, `size` rows at a time."""
    device, found = PartialState().device, list[float]()
    model.to(device)
    with torch.no_grad():
        for start in range(0, len(rows), size):
            batch = encoder.batch(rows[start : start + size])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            found += likelihoods(model, batch).mean.neg().exp().tolist()
    return found


def train_on_pairs(run: Run, loss: PairLoss) -> None:
    """Train the run's policy on its pairs by a loss of the policy's likelihoods; publish it."""

    def measured(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, rejected = halves(likelihoods(model, batch))
        numbers = {
            "logps/chosen": chosen.total.mean(),
            "logps/rejected": rejected.total.mean(),
            **preferences(chosen.mean - rejected.mean),
        }
        return loss(chosen, rejected).mean(), numbers

    encoder = run.encoder
    trainer = LossTrainer(
        model=run.policy(),
        args=run.arguments(TrainingArguments),
        loss=measured,
        collate=lambda pairs: pair_batch(encoder, pairs),
        rows=[encode_pair(encoder, row) for row in run.rows],
        processing_class=run.tokenizer,
    )
    run.fit(trainer)
    run.publish(trainer.model)


def preferences(margins: Tensor) -> dict[str, Tensor]:
    """Return what is logged of margins: their mean, and the share of pairs in the right order."""
    return {"margin": margins.mean(), "accuracy": (margins > 0).float().mean()}
