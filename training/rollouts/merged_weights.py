"""A model's weights as an engine loads them, with the effect of a peft adapter in them."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from training.bottleneck import Bottleneck
from training.rollouts.base import RolloutError

_SHARED_MEMORY = Path("/dev/shm")
_ROOM = 2
"""Times the size of the weights that must be free: shared memory may be small, as in containers."""


@contextmanager
def written_weights(model: PreTrainedModel | PeftModel, dtype: torch.dtype) -> Iterator[Path]:
    """Write the weights to a directory that is there while the block runs; the model stays as is.

    In shared memory, where there is room. Raises RolloutError where an adapter cannot be merged.
    """
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    size = sum(each.numel() for each in plain.parameters()) * dtype.itemsize
    with (
        tempfile.TemporaryDirectory(prefix="forethought-weights-", dir=_place(size)) as directory,
        torch.no_grad(),
    ):
        weights = {
            name: tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
            for name, tensor in merged_weights(model)
        }
        named = revert_weight_conversion(plain, _without_ties(plain, weights))
        contiguous = {name: tensor.contiguous().cpu() for name, tensor in named.items()}
        save_file(contiguous, Path(directory) / "model.safetensors")
        yield Path(directory)


def merged_weights(model: PreTrainedModel | PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters of the model below any adapter by name, with the adapter's effect.

    A layer at a time is copied and merged: merging in place and undoing it would round the base
    weights a little more with every refresh. Raises RolloutError where it cannot be merged.
    """
    if any(isinstance(each, Bottleneck) for each in model.modules()):
        raise RolloutError("bottlenecks cannot be merged into weights: draw with backend 'model'")
    if isinstance(model, PeftModel):
        config = model.active_peft_config
        if config.is_prompt_learning:
            kind = str(config.peft_type.value).lower()
            raise RolloutError(f"{kind} cannot be merged into weights: draw with backend 'model'")
        model = model.get_base_model()
    yield from _below(model, "")


def _below(module: torch.nn.Module, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(module, BaseTunerLayer):
        merged: Any = copy.deepcopy(module)
        merged.merge()
        module = merged.get_base_layer()
    elif isinstance(module, ModulesToSaveWrapper):
        module = module.modules_to_save[module.active_adapters[0]]
    for name, parameter in module.named_parameters(recurse=False):
        if not parameter.is_floating_point():
            raise RolloutError(
                f'{prefix}{name} is quantised and cannot be sent whole: say `weights = "adapter"`'
            )
        yield f"{prefix}{name}", parameter
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:
            yield f"{prefix}{name}", buffer
    for name, child in module.named_children():
        yield from _below(child, f"{prefix}{name}.")


def _without_ties(
    model: PreTrainedModel, weights: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Leave out what is another parameter's tensor: engines tie it themselves.

    Raises RolloutError where an adapter has made them differ.
    """
    tied: dict[str, str] = model.all_tied_weights_keys
    for name, source in tied.items():
        if name in weights and not torch.equal(weights[name], weights[source]):
            raise RolloutError(f"the adapter changes {source}, to which {name} is tied: not both")
    return {name: tensor for name, tensor in weights.items() if name not in tied}


def _place(size: int) -> Path | None:
    if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > _ROOM * size:
        return _SHARED_MEMORY
    return None
