"""TRL's heads, on a CPU too, over the tokens that count alone.

Where there is no Triton, TRL (1.16) projects every position onto the vocabulary, so that compilers
see batches of one shape. A CPU compiles nothing, and most positions are the prompts'.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_MODULE = "trl.trainer.utils"


@contextmanager
def only_replies() -> Iterator[None]:
    """Leave prompts out of the projection while the block runs; the losses are the same."""
    utils: Any = sys.modules.get(_MODULE)
    if utils is None:  # no trainer of TRL's
        yield
        return
    chosen = utils._use_triton
    utils._use_triton = lambda device: torch.device(device).type == "cpu" or chosen(device)
    try:
        yield
    finally:
        utils._use_triton = chosen
