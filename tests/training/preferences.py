"""Pairs that a tiny model learns in a few steps, and what the closed forms are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.training.tiny import begin, recipe, save_tiny, write_rows
from training.encoding import Encoded, token_logprobs
from training.run import Run
from verifiers.manifest import Manifest, read_manifest

PAIRS: list[dict[str, Any]] = [
    {"prompt": "A pet?", "chosen": "cat", "rejected": "a rock"},
    {"prompt": "A colour?", "chosen": "deep blue", "rejected": "7"},
    {"prompt": "2+2?", "chosen": "4", "rejected": "five"},
    {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "chosen": "Hi!",
        "rejected": "Well, hello there",
    },
]
LORA = {"type": "lora", "r": 4}


def pairs(directory: Path) -> Path:
    """Write two of each pair."""
    return write_rows(directory / "pairs.jsonl", PAIRS * 2)


def labels(directory: Path) -> Path:
    """Write both replies of each pair, labelled 1 and 0."""
    rows = [
        {"prompt": pair["prompt"], "reply": pair[side], "label": label}
        for pair in PAIRS
        for side, label in (("chosen", 1), ("rejected", 0))
    ]
    return write_rows(directory / "labels.jsonl", rows)


def trained(
    model: Path, method: Mapping[str, Any] | str, rows: Path, directory: Path, **tables: Any
) -> tuple[Run, Manifest]:
    """Train, and return the run and the manifest of what it published."""
    said = recipe(model, method, rows, **tables)
    run = begin(said, directory)
    said.method.train(run)
    assert run.result is not None
    return run, read_manifest(run.result.path)


def one_step(
    model: Path, method: Mapping[str, Any] | str, rows: Path, directory: Path, **tables: Any
) -> Run:
    """Train one step on all rows, from `model`, compared with another model."""
    directory.mkdir(exist_ok=True)
    run, _ = trained(
        model,
        method,
        rows,
        directory,
        reference=str(save_tiny(directory / "reference", seed=1)),
        training={"max_steps": 1, "batch_size": 8},
        **tables,
    )
    return run


def measured(run: Run, model: Any, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Return replies' log-probabilities by a model, and how many tokens they have."""
    batch = run.encoder.batch(rows)
    with torch.no_grad():
        return token_logprobs(model, batch).sum(-1), batch["reply_mask"].sum(-1)


def log_ratios(run: Run, rows: Sequence[Encoded]) -> Tensor:
    """Return log π/π_ref of replies, before training."""
    return measured(run, run.policy(), rows)[0] - measured(run, run.reference(), rows)[0]


def replies(run: Run) -> tuple[list[Encoded], list[Encoded]]:
    """Return the run's pairs as token ids: chosen, rejected."""
    chosen = [run.encoder.row(row.prompt, row.chosen) for row in run.rows]
    return chosen, [run.encoder.row(row.prompt, row.rejected) for row in run.rows]
