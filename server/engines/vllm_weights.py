"""New weights for a model that vLLM runs: nothing of the old ones stays, nor of their cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any


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
