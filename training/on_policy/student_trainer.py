"""A trainer that draws replies of the model in training for each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from training.trainer import LossTrainer

Draw: TypeAlias = Callable[[Any, int, Sequence[Sequence[int]]], list[dict[str, Tensor]]]
"""From the model, its step and the places of rows in each batch of that step to the batches."""


class StudentTrainer(LossTrainer):
    """Train by a loss on what `draw` makes of the rows, with the weights of each optimizer step.

    All batches of an optimizer step are drawn at once. What is drawn hangs on the step alone, so a
    resumed run draws the same.
    """

    def __init__(self, *, draw: Draw, rows: Sequence[Any], **options: Any) -> None:
        super().__init__(rows=range(len(rows)), collate=_places, **options)
        self._draw = draw

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Take the step's batches of places, and draw."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, items
        model = self.accelerator.unwrap_model(self.model)
        places = [batch["places"].tolist() for batch in batches]
        return self._draw(model, self.state.global_step, places), items


def _places(rows: Sequence[int]) -> dict[str, Tensor]:
    return {"places": torch.tensor(rows)}
