"""transformers' Trainer around a loss of ours: what methods use that TRL does not have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import Trainer

Loss: TypeAlias = Callable[[Any, Mapping[str, Tensor]], tuple[Tensor, Mapping[str, Tensor | float]]]
"""From the model and a batch to a scalar and the numbers to log beside it (scalars)."""
Collate: TypeAlias = Callable[[Sequence[Any]], dict[str, Tensor]]


class LossTrainer(Trainer):
    """Train by `loss` on batches that `collate` makes of rows of any kind.

    A loss is a mean over its batch's rows: gradient accumulation then averages batches of equal
    size, which is exact but for the last batch of an epoch.
    """

    def __init__(
        self,
        *,
        loss: Loss,
        collate: Collate,
        rows: Sequence[Any],
        test_rows: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        tests = _Listed(test_rows) if test_rows else None
        super().__init__(
            train_dataset=_Listed(rows), eval_dataset=tests, data_collator=collate, **options
        )
        self._loss = loss
        self._logged: dict[str, list[float]] = defaultdict(list)
        # The loss is no sum over tokens: Trainer must divide it by the accumulated batches.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002
    ) -> Any:
        """Call the loss, and keep its numbers for the log."""
        loss, numbers = self._loss(model, inputs)
        for name, value in numbers.items():
            self._logged[name].append(float(torch.as_tensor(value).detach()))
        return (loss, {}) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        """Call the loss on test rows; its numbers are none of the training's."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, _numbers = self._loss(model, self._prepare_inputs(inputs))
        return loss, None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the means since the last time, over all processes."""
        means = {
            name: self._mean_over_processes(sum(seen) / len(seen))
            for name, seen in sorted(self._logged.items())
        }
        self._logged.clear()
        super().log({**logs, **means}, start_time)

    def _mean_over_processes(self, value: float) -> float:
        told = torch.tensor([value], device=self.accelerator.device)
        return float(self.accelerator.gather(told).mean())


class _Listed(torch.utils.data.Dataset[Any]):
    """Rows as torch wants them."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Any:
        return self._rows[place]
