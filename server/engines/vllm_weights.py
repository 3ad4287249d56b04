"""New weights for a model that vLLM runs: nothing of the old ones stays, nor of their cache.

`refreshable` makes the options of an engine that can take them, `load_weights` gives them. What
vLLM's workers do is in `WeightReader`, which vLLM mixes into its worker class.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from server.engines.vllm_machine import VLLMOptions


def refreshable(options: VLLMOptions) -> VLLMOptions:
    """Return the options of an engine whose weights can be replaced while it runs."""
    extension = f"{__name__}.{WeightReader.__name__}"
    arguments = {**options.engine_arguments, "worker_extension_cls": extension}
    return options.model_copy(update={"engine_arguments": arguments})


async def load_weights(core: Any, directory: Path) -> None:
    """Replace the weights of an `AsyncLLM` by a directory's, of the same architecture.

    What runs ends first, with the old weights; what comes meanwhile waits for the new ones.
    Where it raises, the engine's weights are undefined.
    """
    # A cache block is known by its tokens, not by the weights that computed it.
    await core.pause_generation(mode="wait", clear_cache=True)
    try:
        await core.collective_rpc("take_weights", args=(str(directory),))
    finally:
        await core.resume_generation()


class WeightReader:
    """The workers' part: its methods are called by name, in the worker's process."""

    reload_weights: Any
    """vLLM's own, of the worker."""
    get_model: Any

    def take_weights(self, directory: str) -> None:
        """Read every tensor of a directory's safetensors files into the model."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.reload_weights(weights_iterator=_tensors(Path(directory)))
        for layer in self.get_model().modules():
            # An output layer tied to the embedding has no weights of its own to be reloaded, but on
            # a CPU a packed copy: without this, it would go on with the old ones.
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)


def _tensors(directory: Path) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError("there are no safetensors files")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield name, opened.get_tensor(name)
