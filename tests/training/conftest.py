from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.tiny import save_brief, save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random language model on disk; nobody writes into it."""
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread, here and in child processes: tiny tensors are slower on two."""
    import torch

    before, told = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    torch.set_num_threads(before)
    if told is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = told


@pytest.fixture(scope="session")
def brief(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model once it has learnt to end its replies soon; nobody writes into it."""
    return save_brief(tiny, tmp_path_factory.mktemp("brief"))
