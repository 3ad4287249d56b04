"""Scoring replies with the model in training: what was held out, after every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from training.data import problem_of
from training.reward_models.discrimination import Graded, calibrated, discrimination, probability
from training.reward_models.frozen_layers import frozen_below, upper_part
from training.reward_models.reply_batches import Collate, Example, with_lower_states
from training.reward_models.reply_verifier import Judge
from training.rows import Labelled
from verifiers.calibration import Calibration

HELD_OUT = "held_out_"


@dataclass(frozen=True, slots=True)
class Scorer:
    """Judges examples in batches of equal lengths."""

    judge: Judge
    collate: Collate
    arguments: TrainingArguments

    @torch.no_grad()
    def scores(self, model: Any, rows: Sequence[Example]) -> list[float]:
        """Return the probability that each reply is right."""
        device, size = self.arguments.device, self.arguments.per_device_eval_batch_size
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]["input_ids"]))
        found = [0.0] * len(rows)
        training = model.training
        model.to(device).eval()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.arguments.bf16):
            for start in range(0, len(order), size):
                places = order[start : start + size]
                batch = self.collate([rows[place] for place in places])
                batch = {name: tensor.to(device) for name, tensor in batch.items()}
                log_odds = self.judge(model, batch).log_odds.tolist()
                for place, value in zip(places, log_odds, strict=True):
                    found[place] = probability(value)
        model.train(training)
        return found


@dataclass(frozen=True, slots=True)
class Measured:
    """What a verifier's scores of held-out rows are worth."""

    replies: Sequence[Graded]

    @property
    def metrics(self) -> dict[str, float]:
        """AUC and the like; empty without rows."""
        if not self.replies:
            return {}
        return {f"{HELD_OUT}{k}": v for k, v in discrimination(self.replies).items()}

    def calibration(self, origin: Mapping[str, Any]) -> Calibration | None:
        """Fit one on the scores; None where there is nothing to fit."""
        return calibrated(self.replies, origin)


def graded(rows: Sequence[Labelled], scores: Sequence[float]) -> Measured:
    """Hold scores against the labels of their rows."""
    return Measured(
        [
            Graded(problem_of(row), score, row.label > 0.5)
            for row, score in zip(rows, scores, strict=True)
        ]
    )


class HeldOut(TrainerCallback):
    """Scores rows after every epoch, and logs what the scores are worth."""

    def __init__(self, trainer: Trainer, scorer: Scorer, rows: Sequence[Example]) -> None:
        self._trainer = trainer
        self._scorer = scorer
        self._rows = rows
        self._latest: tuple[int, Measured] | None = None

    def on_epoch_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Score and log."""
        if self._rows:
            self._trainer.log(self.measured().metrics)

    def measured(self) -> Measured:
        """Score with the model as it is now; what is known of this step is not computed again."""
        step = self._trainer.state.global_step
        if self._latest is None or self._latest[0] != step:
            scores = self._scorer.scores(self._trainer.model, self._rows)
            measured = Measured(
                [
                    Graded(row["problem"], score, row["label"] > 0.5)
                    for row, score in zip(self._rows, scores, strict=True)
                ]
            )
            self._latest = (step, measured)
        return self._latest[1]


@contextmanager
def reusing(
    model: Any,
    parts: Sequence[Sequence[Example]],
    pad_id: int,
    arguments: TrainingArguments,
) -> Iterator[list[list[Example]]]:
    """Run the frozen layers over all examples; the model is without them while the block runs.

    Raises:
        RunError: the model cannot be cut so.
    """
    from training.run import RunError

    frozen = frozen_below(model)
    try:
        ready = [with_lower_states(model, rows, frozen, pad_id, arguments) for rows in parts]
    except ValueError as error:
        raise RunError(str(error)) from error
    with upper_part(model, frozen):
        yield ready
