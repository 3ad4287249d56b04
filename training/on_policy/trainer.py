"""The loop of policy-gradient training: draw with the current weights, reward, train on it.

A round is `iterations` × `minibatches` optimizer steps on the same replies. Round k draws with a
seed made of the run's and k, and states to resume from are saved at the end of rounds: a resumed
run draws what it would have drawn.

The old policy's log-probabilities are those that the trained model itself computes before a round's
first step, not the engine's: in bf16 these differ by up to 0.2, and the ratio would not begin at 1.
How much they differ is logged as `engine_difference`.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from training.encoding import token_logprobs
from training.on_policy.method import PolicyGradient
from training.on_policy.rounds import Columns, Round, Rounds, described, taken
from training.on_policy.value_head import PolicyWithValue, reply_values
from training.rollouts.base import Rollouts
from training.run import Run, RunError
from training.trainer import LossTrainer


class OnPolicyTrainer(LossTrainer):
    """Trains by a method on rounds that it draws itself.

    Logged, beside what the method's loss tells: `reward`, `reward_std`, `rewards/NAME`, `accuracy`
    (the share of replies that the first reward gives at least ½), `reply_tokens`, `cut` (the share
    that reached its length), `entropy` (−log π of what was drawn), `kl` (to the reference, k3),
    `engine_difference`, `generation_seconds` and `training_seconds` since the last line.
    """

    def __init__(
        self,
        *,
        method: PolicyGradient,
        rounds: Rounds,
        rollouts: Rollouts,
        reference: nn.Module | None,
        items: int,
        **options: Any,
    ) -> None:
        """Train on `items` replies in an epoch; `options` go to transformers' Trainer."""
        super().__init__(loss=method.loss, collate=_places, rows=range(items), **options)
        self._method, self._source = method, rounds
        self._rollouts, self._reference = rollouts, reference
        self._batches = self._stream()
        self._generation_seconds = self._training_seconds = 0.0

    @property
    def policy(self) -> Any:
        """The policy itself, without a value head or what spreads it over devices."""
        model = self.accelerator.unwrap_model(self.model)
        return model.policy if isinstance(model, PolicyWithValue) else model

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        """Take the time beside what Trainer does; drawing is a time of its own."""
        begun, drawing = time.perf_counter(), self._generation_seconds
        loss = super().training_step(*arguments, **options)
        drawn = self._generation_seconds - drawing
        self._training_seconds += time.perf_counter() - begun - drawn
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the seconds since the last time."""
        if self._training_seconds:
            logs["generation_seconds"] = self._generation_seconds
            logs["training_seconds"] = self._training_seconds
        self._generation_seconds = self._training_seconds = 0.0
        super().log(logs, start_time)

    def _prepare_inputs(self, inputs: Any) -> Any:  # noqa: ARG002
        """Train on what is drawn; the loader's own batches only count."""
        return next(self._batches)

    def _stream(self) -> Iterator[Columns]:
        """Yield the batches of rounds, from the one that the trainer's step stands at."""
        method, size = self._method, self.args.per_device_train_batch_size
        steps = method.iterations * method.minibatches
        while True:
            number = self.state.global_step // steps
            begun = time.perf_counter()
            drawn = self._draw(number)
            self._generation_seconds += time.perf_counter() - begun
            with torch.no_grad():
                columns = self._credited(drawn)
            order = random.Random(f"{self.args.seed}/{number}")
            for _ in range(method.iterations):
                parts = self._shuffled(len(drawn.replies), size, order)
                for first in range(0, len(parts), self.args.gradient_accumulation_steps):
                    step = parts[first : first + self.args.gradient_accumulation_steps]
                    tokens = self._mean_tokens([taken(columns, part) for part in step])
                    for part in step:
                        yield {**taken(columns, part), "mean_tokens": tokens}

    def _draw(self, number: int) -> Round:
        step = self.state.global_step
        if step and self._rollouts.step != step:
            self._rollouts.refresh(self.policy, step)
        drawn = self._source.draw(number)
        device = self.accelerator.device
        batch = {name: column.to(device) for name, column in drawn.batch.items()}
        return replace(drawn, batch=batch)

    def _credited(self, drawn: Round) -> Columns:
        """Measure a round by policy and reference, have it credited, and log what it is like."""
        model, method = self.model_wrapped, self._method
        columns: Columns = dict(drawn.batch)
        model.eval()
        if method.valued:
            columns |= self._measured(
                columns,
                lambda batch: dict(
                    zip(
                        ("old_logprobs", "old_values"),
                        reply_values(model, batch, method.temperature),
                        strict=False,
                    )
                ),
            )
        else:
            columns |= self._measured(columns, self._logprobs(model, "old_logprobs"))
        model.train()
        if self._reference is not None:
            reference = self._reference.to(self.accelerator.device)
            columns |= self._measured(columns, self._logprobs(reference, "reference_logprobs"))
        drawn = replace(drawn, batch=columns)
        for name, value in described(drawn, method.temperature).items():
            self._logged[name].append(value)
        return columns | method.credit(drawn)

    def _logprobs(
        self, model: Any, name: str
    ) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
        return lambda batch: {name: token_logprobs(model, batch, self._method.temperature)}

    def _measured(
        self, columns: Columns, measure: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    ) -> Columns:
        """Measure all rows, as many at a time as are trained on."""
        rows, tokens = columns["input_ids"].shape
        size = self.args.per_device_train_batch_size
        found: dict[str, Tensor] = {}
        for first in range(0, rows, size):
            part = list(range(first, min(first + size, rows)))
            with self.compute_loss_context_manager(), self.accelerator.autocast():
                measured = measure(taken(columns, part))
            for name, column in measured.items():
                whole = found.setdefault(name, column.new_zeros(rows, tokens - 1))
                whole[part, : column.shape[1]] = column
        return found

    def _shuffled(self, replies: int, size: int, order: random.Random) -> list[list[int]]:
        """Share out the replies to forward passes; a method that compares gets whole groups."""
        unit = self._method.samples if self._method.grouped else 1
        units = list(range(0, replies, unit))
        order.shuffle(units)
        shuffled = [first + place for first in units for place in range(unit)]
        return [shuffled[first : first + size] for first in range(0, replies, size)]

    def _mean_tokens(self, step: Sequence[Columns]) -> Tensor:
        """Count the reply tokens of a forward pass of an optimizer step, on average."""
        tokens = torch.stack([batch["reply_mask"][:, 1:].sum() for batch in step]).float().mean()
        mean: Tensor = self.accelerator.reduce(tokens, reduction="mean")
        return mean

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, PolicyWithValue):
            super()._save(output_dir, state_dict)
            return
        directory = Path(output_dir or str(self.args.output_dir))
        directory.mkdir(parents=True, exist_ok=True)
        model.save(directory)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        inner = self.accelerator.unwrap_model(self.model)
        if isinstance(inner, PolicyWithValue):
            inner.load(Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


def train_on_policy(
    run: Run,
    method: PolicyGradient,
    *,
    model: Any = None,
    trainer_class: type[OnPolicyTrainer] = OnPolicyTrainer,
    make_rounds: Callable[..., Rounds] = Rounds,
    **own: Any,
) -> None:
    """Train a run's policy by a method on rounds of the recipe's rollouts and rewards; publish it.

    Args:
        run: the run.
        method: the recipe's, or one made of it.
        model: the policy; None: the run's own.
        trainer_class: what takes the steps.
        make_rounds: `Rounds`, or what is called like it.
        own: further arguments of the trainer.

    Raises:
        RunError: the sizes of batches do not fit the method.
        BadRequest: a row lacks what a reward needs.
    """
    policy = run.policy() if model is None else model
    without_dropout(policy)
    reference = run.reference() if method.compared else None
    arguments = run.arguments(TrainingArguments, **own)
    # A state in the middle of a round would need the weights that the round was drawn with.
    steps = method.iterations * method.minibatches
    arguments.save_steps = math.ceil(arguments.save_steps / steps) * steps
    prompts = round_prompts(arguments, method)
    together = prompts * arguments.world_size
    items = math.ceil(len(run.rows) / together) * together * method.samples * method.iterations
    with run.rollouts(policy) as rollouts, run.rewards(rollouts) as rewards:
        rewards.check([method.question(row) for row in run.rows])
        trainer = trainer_class(
            method=method,
            rounds=make_rounds(
                method,
                run.rows,
                run.encoder,
                rollouts,
                rewards,
                prompts=prompts,
                seed=arguments.seed,
                process=(arguments.process_index, arguments.world_size),
            ),
            rollouts=rollouts,
            reference=reference,
            items=items,
            model=PolicyWithValue(policy) if method.valued else policy,
            args=arguments,
        )
        run.fit(trainer)
    run.publish(trainer.policy)


def without_dropout(model: nn.Module) -> None:
    """Turn dropout off: π and π_old are of the same network only without it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def round_prompts(arguments: TrainingArguments, method: PolicyGradient) -> int:
    """Return the prompts of a round in one process.

    Raises:
        RunError: there is no such number.
    """
    size: int = arguments.per_device_train_batch_size
    replies: int = size * arguments.gradient_accumulation_steps * method.minibatches
    if replies % method.samples:
        raise RunError(
            f"a round has batch_size × accumulate × steps = {replies} replies: no multiple of"
            f" `samples` = {method.samples}"
        )
    if method.grouped and size % method.samples:
        raise RunError(f"batch_size {size} is no multiple of `samples` = {method.samples}")
    return replies // method.samples


def _places(rows: Sequence[int]) -> Columns:
    return {"places": torch.tensor(rows)}
