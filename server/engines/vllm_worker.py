"""Our part of vLLM's worker processes: imported there, by its name, and nowhere else.

vLLM mixes `Extension` into its worker class, and its methods are called by name. On a CPU the
module also mends vLLM (0.32), which dies of a request with a seed whose prompt is computed in
parts, as under load any prompt may be: after each part but the last it draws a token, throws it
away, and takes the draw back by an offset, which generators on a CPU have not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.platforms import current_platform

_DRAW = 4
"""What a draw moves the offset by, to vLLM."""


class Extension:
    """What a worker can do for us beside vLLM's own."""

    reload_weights: Any
    """vLLM's own, of the worker."""
    get_model: Any

    def take_weights(self, directory: str) -> None:
        """Read every tensor of a directory's safetensors files into the model."""
        self.reload_weights(weights_iterator=_tensors(Path(directory)))
        for layer in self.get_model().modules():
            # An output layer tied to the embedding has no weights of its own to be reloaded, but on
            # a CPU a packed copy: without this, it would go on with the old ones.
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)


class SeededGenerator(torch.Generator):
    """A generator whose draws can be taken back: all of them, to the seed.

    So the reply to a seed does not hang on the parts that its prompt was computed in. Of a request
    that was preempted, computed anew in parts, the draws begin again.
    """

    def manual_seed(self, seed: int) -> SeededGenerator:
        """Begin with a seed."""
        super().manual_seed(seed)
        self._beginning = self.get_state()
        return self

    def get_offset(self) -> int:
        """Say that one draw was made."""
        return _DRAW

    def set_offset(self, offset: int) -> None:
        """Take the draws back."""
        assert offset == 0, "vLLM takes one draw back"
        self.set_state(self._beginning)


def _tensors(directory: Path) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError("there are no safetensors files")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield name, opened.get_tensor(name)


if current_platform.is_cpu():
    torch.Generator = SeededGenerator
