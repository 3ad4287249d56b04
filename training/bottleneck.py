"""The modules of Houlsby's adapters (1902.00751): in a model, on the disk, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.adapters.base import CONFIG, AdapterError

BOTTLENECK = "BOTTLENECK"
"""Its `peft_type`, though peft knows none such."""
WEIGHTS = "adapter_model.safetensors"
_PLACES = ("self_attn", "mlp")


class Bottleneck(nn.Module):
    """h + W₂ GELU(W₁ h + b₁) + b₂: the identity, until it is trained."""

    def __init__(self, width: int, size: int, like: Tensor) -> None:
        super().__init__()
        self.down = nn.Linear(width, size, device=like.device)
        self.up = nn.Linear(size, width, device=like.device)
        nn.init.trunc_normal_(self.down.weight, std=0.01, a=-0.02, b=0.02)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Change (…, width); computed in float32, whatever the model's type."""
        inner = nn.functional.gelu(self.down(hidden.to(self.down.weight.dtype)))
        return hidden + self.up(inner).to(hidden.dtype)


def add_bottlenecks(
    model: PreTrainedModel, size: int, *, norms: bool = True, task: str = "CAUSAL_LM"
) -> PreTrainedModel:
    """Freeze the model but for bottlenecks, norms of the layers if so said, and a task's head.

    Raises:
        AdapterError: its layers are not built of `self_attn` and `mlp`.
    """
    model.requires_grad_(False)
    layers = [each for each in model.modules() if all(hasattr(each, name) for name in _PLACES)]
    if not layers:
        raise AdapterError(f"{type(model).__name__} has no layers of {' and '.join(_PLACES)}")
    width = model.config.get_text_config().hidden_size
    for layer in layers:
        for name, child in layer.named_children():
            if name in _PLACES:
                child.add_module("bottleneck", Bottleneck(width, size, next(child.parameters())))
                child.register_forward_hook(_through)
            elif norms and "norm" in name:
                child.requires_grad_(True)
    if task != "CAUSAL_LM":
        for head in model.children():
            if head is not model.base_model:
                head.requires_grad_(True)
    model.config.bottleneck = {"size": size, "norms": norms, "task": task}
    return model


def save_bottlenecks(model: PreTrainedModel, directory: Path) -> None:
    """Write what is trained of a model, and its shape."""
    trained = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    directory.mkdir(parents=True, exist_ok=True)
    save_file(trained, directory / WEIGHTS)
    said = {"peft_type": BOTTLENECK, **model.config.bottleneck}
    (directory / CONFIG).write_text(json.dumps(said, indent=1) + "\n")


def load_bottlenecks(
    model: PreTrainedModel, directory: Path, *, trainable: bool = False
) -> PreTrainedModel:
    """Put saved bottlenecks into the model that they were trained in.

    Raises:
        AdapterError: the weights are not this model's.
    """
    said = json.loads((directory / CONFIG).read_text())
    add_bottlenecks(model, said["size"], norms=said["norms"], task=said["task"])
    weights = load_file(directory / WEIGHTS)
    wanted = {name for name, each in model.named_parameters() if each.requires_grad}
    if weights.keys() != wanted:
        odd = sorted(weights.keys() ^ wanted)[0]
        raise AdapterError(f"{directory / WEIGHTS}: not of this model: {odd}")
    model.load_state_dict(weights, strict=False)
    return model if trainable else model.requires_grad_(False)


def _through(module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001
    """Lead a layer part's output through its bottleneck: the first of several, if so."""
    bottleneck = module.bottleneck
    assert isinstance(bottleneck, Bottleneck)
    if isinstance(output, tuple):
        return (bottleneck(output[0]), *output[1:])
    return bottleneck(output)
