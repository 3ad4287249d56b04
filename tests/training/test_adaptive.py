"""Adaptive verifiers: rounds of fresh replies, labelled by ground truth, and what a refit does."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.training.tiny import begin, recipe, write_rows
from training.data import read_rows
from training.methods.adaptive import Adaptive
from training.rows import Labelled
from training.run import Run
from verifiers.manifest import read_manifest


def adaptive_run(tiny: Path, directory: Path, **method: Any) -> Run:
    """Open a run whose replies, are right if they end, and say one of some letters."""
    rows = write_rows(
        directory / "prompts.jsonl", [{"prompt": f"Say {c}"} for c in string.ascii_lowercase]
    )
    said = recipe(
        tiny,
        {
            "type": "adaptive",
            "rounds": 2,
            "samples": 4,
            "max_tokens": 90,
            "held_out": 0.3,
            "learning_rate": 3e-3,
            **method,
        },
        rows,
        training={"max_steps": 16, "batch_size": 8},
        rollouts={"backend": "model"},
        rewards=[{"verifier": {"type": "regex"}, "fields": {"pattern": "[a-m]"}}],
    )
    return begin(said, directory)


def test_it_refits_on_fresh_replies(tiny: Path, tmp_path: Path) -> None:
    run = adaptive_run(tiny, tmp_path, threshold=0.5)
    run.recipe.method.train(run)
    lines = [json.loads(line) for line in (run.directory / "log.jsonl").read_text().splitlines()]
    rounds = [line for line in lines if "auc_after" in line or "right" in line]
    assert len(rounds) == 2
    assert "auc_before" not in rounds[0]
    assert "auc_before" in rounds[1]
    drawn = [
        read_rows([run.directory / f"round-{number}" / "samples"], Labelled).rows
        for number in (1, 2)
    ]
    assert {row.reply for row in drawn[0]} != {row.reply for row in drawn[1]}
    assert run.result is not None
    manifest = read_manifest(run.result.path, kinds=("orm",))
    assert "held_out_best" in manifest.metrics


def test_only_verifiers_of_replies_are_refitted() -> None:
    with pytest.raises(ValidationError, match="'sft' is no verifier of whole replies"):
        Adaptive.model_validate({"method": {"type": "sft"}})
    inner = Adaptive.model_validate({"method": {"type": "generative_verifier"}}).method
    assert inner.makes == "generative"
    assert Adaptive().method.name == "outcome_reward"
