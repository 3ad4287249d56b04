"""Implicit process rewards: the log-ratio of whole replies learns their verdicts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_outcome_reward import LORA, trained
from tests.training.tiny import logged
from training.encoding import token_logprobs
from training.losses.reward import outcome
from verifiers.manifest import read_manifest

METHOD: dict[str, Any] = {"type": "implicit_process_reward"}


def test_the_loss_is_of_the_sum_over_the_reply() -> None:
    beta, labels = 0.05, torch.tensor([1.0, 0.0], dtype=torch.float64)
    # Log-ratios of two replies of three and two tokens.
    ratios = [[1.0, 2.0, 3.0], [4.0, -1.0]]
    sums = torch.tensor([sum(each) for each in ratios], dtype=torch.float64)
    means = torch.tensor([sum(each) / len(each) for each in ratios], dtype=torch.float64)
    expected = (math.log(1 + math.exp(-0.3)) + math.log(1 + math.exp(0.15))) / 2
    assert outcome(beta * sums, labels).item() == pytest.approx(expected)
    assert outcome(beta * means, labels).item() != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("adapter", [None, LORA])
def test_it_learns(tiny: Path, tmp_path: Path, adapter: dict[str, Any] | None) -> None:
    run = trained(
        tiny, tmp_path, {**METHOD, "beta": 0.5}, adapter=adapter, training={"dtype": "float32"}
    )
    loss = logged(run, "loss")
    # Policy and reference are the same at first.
    assert loss[0] == pytest.approx(math.log(2), rel=1e-4)
    assert loss[-1] < 0.8 * loss[0]
    assert logged(run, "held_out_auc")[-1] > 0.9
    assert run.result is not None
    kind = "policy" if adapter is None else "lora"
    assert read_manifest(run.result.path).kind == kind


def test_the_checkpoint_scores_as_it_did(tiny: Path, tmp_path: Path) -> None:
    run = trained(tiny, tmp_path, {**METHOD, "beta": 0.5}, training={"max_steps": 6})
    method: Any = run.recipe.method
    assert run.result is not None
    from transformers import AutoModelForCausalLM

    after = AutoModelForCausalLM.from_pretrained(run.result.path, dtype=torch.float32)
    before = run.reference()
    said = method.scores(run, after, run.test_rows[:4])
    for row, score in zip(run.test_rows, said, strict=False):
        batch = run.encoder.batch([run.encoder.row(row.prompt, row.reply)])
        with torch.no_grad():
            ratio = (token_logprobs(after, batch) - token_logprobs(before, batch)).sum()
        assert score == pytest.approx(torch.sigmoid(0.5 * ratio).item(), abs=1e-5)
