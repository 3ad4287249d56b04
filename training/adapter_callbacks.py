"""What adapters need at a trainer's steps, and what peft leaves out of the states it saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

NETWORK = "prompt_network.pt"
ALLOCATION = "rank_allocation.pt"
_MOMENTS = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class PromptNetwork(TrainerCallback):
    """Keep the network behind a soft prompt: peft saves what comes out of it, and no more."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        model: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Write it beside the state."""
        if state.is_world_process_zero:
            torch.save(model.prompt_encoder.state_dict(), _state(args, state) / NETWORK)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        model: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Read it, if the run goes on."""
        if state.global_step:
            path = _state(args, state) / NETWORK
            model.prompt_encoder.load_state_dict(torch.load(path, weights_only=True))


class RankAllocation(TrainerCallback):
    """AdaLoRA's part of each step: the orthogonality's gradient, then pruning.

    Ranks are pruned by zeros. A model that knew its ranks would be saved cut to them, which the
    next run's optimizer could not go on with: so they are known here.
    """

    def __init__(self) -> None:
        self._ranks: dict[str, list[bool]] | None = None

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        model: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Add the gradient of γ · mean ‖PᵀP − I‖, ‖QQᵀ − I‖ (Frobenius) of all P and Q."""
        weight = _config(model).orth_reg_weight
        if weight:
            (weight * orthogonality(model)).backward()

    def on_optimizer_step(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        model: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Prune, while the gradients are still there to measure importance by."""
        config = _config(model)
        config.rank_pattern = self._ranks
        # The trainer counts a step when it is over.
        model.base_model.update_and_allocate(state.global_step + 1)
        self._ranks, config.rank_pattern = config.rank_pattern, None

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        model: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Write the ranks, and what is known of their importance."""
        if state.is_world_process_zero:
            allocator = model.base_model.rankallocator
            known = {name: getattr(allocator, name) for name in _MOMENTS}
            torch.save({**known, "ranks": self._ranks}, _state(args, state) / ALLOCATION)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        model: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Read them, if the run goes on."""
        if not state.global_step:
            return
        path = _state(args, state) / ALLOCATION
        known = torch.load(path, weights_only=True, map_location=model.device)
        self._ranks = known.pop("ranks")
        for name, value in known.items():
            setattr(model.base_model.rankallocator, name, value)


def orthogonality(model: Any) -> torch.Tensor:
    """Return the mean of ‖M Mᵀ − I‖ over AdaLoRA's matrices, M = Pᵀ or Q with a row for each rank.

    2303.10512, eq. 4, has the squared norms; this is what its authors' code and peft compute.
    """
    gaps = []
    for name, matrix in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            rows = matrix if "lora_A" in name else matrix.T
            gaps.append(torch.linalg.norm(rows @ rows.T - torch.eye(len(rows)).to(rows)))
    return torch.stack(gaps).mean()


def _config(model: Any) -> Any:
    return model.peft_config[model.active_adapter]


def _state(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
