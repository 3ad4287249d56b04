"""Bradley-Terry reward models: the loss by hand and by TRL, what is learnt, what is served."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_outcome_reward import served
from tests.training.tiny import begin, logged, recipe, write_rows
from training.losses.reward import bradley_terry
from training.rows import Labelled
from verifiers.manifest import read_manifest


def pairs(path: Path) -> Path:
    """Write pairs of which the chosen reply says x; some with a margin, one with a prefix."""
    return write_rows(
        path,
        [
            {
                "prompt": f"Problem {number}?",
                "chosen": f"{number} x",
                "rejected": f"{number} y",
                **({"margin": 0.5} if number % 2 else {}),
                **({"prefix": "So "} if number == 3 else {}),
            }
            for number in range(16)
        ],
    )


def test_the_loss_by_hand() -> None:
    chosen = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    margin = torch.tensor([0.25, 0.0], dtype=torch.float64)

    def minus_log_sigmoid(x: float) -> float:
        return math.log(1 + math.exp(-x))

    expected = (minus_log_sigmoid(0.75) + minus_log_sigmoid(-1.5) + 0.01 * (1.0 + 6.25)) / 2
    assert bradley_terry(chosen, rejected, margin, 0.01).item() == pytest.approx(expected)
    # Equal rewards: log 2, and the gradients are −1/2 and 1/2 (of a mean over one row).
    tie = torch.zeros(1, requires_grad=True)
    loss = bradley_terry(tie, torch.zeros(1))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert tie.grad is not None
    assert tie.grad.item() == pytest.approx(-0.5)
    assert torch.autograd.gradcheck(
        lambda a, b: bradley_terry(a, b, margin, 0.01), (chosen, rejected)
    )


def test_the_first_loss_is_ours(tiny: Path, tmp_path: Path) -> None:
    from training.methods.bradley_terry import BradleyTerry
    from training.reward_models.reward_head import load_reward_model, read_conversation

    # Of a model whose head says something: a new one says 0 of everything.
    scored = _with_head(tiny, tmp_path / "model")
    said = recipe(
        scored,
        {"type": "bradley_terry", "centring": 0.01},
        pairs(tmp_path / "pairs.jsonl"),
        training={"max_steps": 1, "batch_size": 16},
    )
    run = begin(said, tmp_path)
    read, model = read_conversation(run.base.path, run.encoder), load_reward_model(run)

    def reward(row: Any, reply: str) -> torch.Tensor:
        ids = torch.tensor([read(row.prompt, row.prefix + reply).ids])
        with torch.no_grad():
            return model(input_ids=ids).logits[0, 0]

    chosen = torch.stack([reward(row, row.chosen) for row in run.rows])
    rejected = torch.stack([reward(row, row.rejected) for row in run.rows])
    margins = torch.tensor([row.margin or 0.0 for row in run.rows])
    BradleyTerry.model_validate({"centring": 0.01}).train(run)
    expected = bradley_terry(chosen, rejected, margins, 0.01).item()
    assert logged(run, "loss")[0] == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(bradley_terry(chosen, rejected).item(), rel=1e-3)


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 8}])
def test_it_learns_and_is_served(
    tiny: Path, tmp_path: Path, adapter: dict[str, Any] | None
) -> None:
    said = recipe(
        tiny,
        {"type": "bradley_terry", "learning_rate": 3e-3 if adapter is None else 1e-2},
        pairs(tmp_path / "pairs.jsonl"),
        adapter=adapter,
        training={"max_steps": 16, "batch_size": 8},
    )
    run = begin(said, tmp_path)
    said.method.train(run)
    assert logged(run, "loss")[-1] < 0.7 * logged(run, "loss")[0]
    assert logged(run, "margin")[-1] > 0.5
    assert run.result is not None
    read_manifest(run.result.path, kinds=("orm",))
    row = {"prompt": "Problem 77?", "label": 1.0}
    better, worse = served(
        run.result.path,
        [Labelled.model_validate({**row, "reply": f"77 {end}"}) for end in "xy"],
    )
    assert better > worse


def _with_head(tiny: Path, directory: Path) -> Path:
    """Write the tiny model with a head of random weights."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    model.score.weight.data.normal_(std=0.5)
    model.config.pad_token_id = 0
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(directory)
    return directory
