"""A policy and a value function, two networks of one size, trained side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from training import models
from training.trainer import LossTrainer

if TYPE_CHECKING:
    from training.run import Run

WEIGHTS = "trained.pt"
"""A file in a state's directory: what is trained of both."""


class Judged(NamedTuple):
    """What both say at each token, (rows, tokens, …)."""

    logits: Tensor
    values: Tensor


class PolicyAndValue(nn.Module):
    """Two networks as one to train; only what is trained of them is kept in states."""

    def __init__(self, policy: Any, value: Any) -> None:
        super().__init__()
        self.policy = policy
        self.value = value
        self.config = policy.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Judged:
        """Return logits and values of every token."""
        tokens = {"input_ids": input_ids, "attention_mask": attention_mask}
        return Judged(self.policy(**tokens).logits, self.value(**tokens).logits.squeeze(-1))

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Trade time for memory in both."""
        self.policy.gradient_checkpointing_enable(**options)
        self.value.gradient_checkpointing_enable(**options)

    def save(self, directory: Path) -> None:
        """Write what is trained, to resume from."""
        trained = {name: each for name, each in self.named_parameters() if each.requires_grad}
        torch.save(trained, directory / WEIGHTS)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote. Raises ValueError where it is of another model."""
        trained = torch.load(directory / WEIGHTS, map_location="cpu", weights_only=True)
        if self.load_state_dict(trained, strict=False).unexpected_keys:
            raise ValueError(f"{directory / WEIGHTS} is of another model")


class PolicyAndValueTrainer(LossTrainer):
    """Trains both by one loss, each at its own learning rate."""

    def __init__(self, *, value_learning_rate: float, **options: Any) -> None:
        super().__init__(**options)
        self._value_learning_rate = value_learning_rate

    @property
    def parts(self) -> PolicyAndValue:
        """The networks, without what spreads them over devices."""
        model: PolicyAndValue = self.accelerator.unwrap_model(self.model)
        return model

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make Trainer's optimizer with a group of parameters for each network."""
        if self.optimizer is None:  # type: ignore[has-type]
            parts = self.parts if model is None else model
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, parts)
            options["weight_decay"] = self.args.weight_decay
            rate = self._value_learning_rate
            groups = [
                {"params": _trained(parts.policy)},
                {"params": _trained(parts.value), "lr": rate},
            ]
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        directory = Path(output_dir or str(self.args.output_dir))
        directory.mkdir(parents=True, exist_ok=True)
        self.parts.save(directory)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        self.parts.load(Path(resume_from_checkpoint))


def load_value(run: Run) -> Any:
    """Load the run's model with a head of one number at each token, which begins at 0.

    Raises RunError for adapters that cannot be merged: the value is served as one model.
    """
    from training.run import RunError

    adapter, chosen = run.recipe.adapter, run.recipe.training
    if adapter is not None and not adapter.mergeable:
        raise RunError("this adapter cannot be merged, so no value function can be served with it")
    value: Any = models.load_model(
        run.base,
        task="TOKEN_CLS",
        dtype=chosen.dtype,
        adapted=adapter is not None,
        num_labels=1,
        **({} if adapter is None else adapter.load_arguments()),
    )
    for parameter in value.score.parameters():
        nn.init.zeros_(parameter)
        # Few weights, and the largest steps: bfloat16 would round them away.
        if chosen.dtype == "auto":
            parameter.data = parameter.data.float()
    if adapter is None:
        return value
    # For this task alone peft leaves the head out of `all-linear`; forward passes are the same.
    return adapter.apply(value, task="SEQ_CLS", steps=chosen.max_steps)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [each for each in model.parameters() if each.requires_grad]
