"""Generative verifiers: the question is the server's own, and the labels are learnt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.training.test_outcome_reward import LORA, labelled_rows, trained
from tests.training.tiny import begin, logged, recipe
from training.losses.reward import labelled_token
from training.methods.generative_verifier import GenerativeVerifier
from verifiers.generative import ONE_WORD, QUESTION
from verifiers.manifest import read_manifest

LABELS = {"yes": "Y", "no": "N", "question": "Right?", "instruction": ""}
"""The tiny model's tokens are single characters."""
METHOD: dict[str, Any] = {"type": "generative_verifier", "verifier": LABELS}


def test_the_loss_is_the_cross_entropy_over_the_whole_vocabulary() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]], dtype=torch.float64)
    labels = torch.tensor([1.0, 0.25], dtype=torch.float64)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        logprobs = logits.log_softmax(-1)
        return labelled_token(logprobs[:, 0], logprobs[:, 1], labels)

    first = -(2 - math.log(math.e**2 + math.e + 1))
    rest = math.log(1 + math.e + math.e**3)
    second = 0.25 * rest + 0.75 * (rest - 1)
    assert float(loss(logits)) == pytest.approx((first + second) / 2)
    # Over the two labels alone it would be less: what other tokens take is a loss too.
    shares = -torch.log_softmax(logits[:, :2], -1)
    alone = (shares[0, 0] + 0.25 * shares[1, 0] + 0.75 * shares[1, 1]) / 2
    assert float(loss(logits)) > float(alone) + 0.1
    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(),))


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "whole": ({}, {}),
    "adapter": ({"learning_rate": 1e-2}, {"adapter": LORA}),
    "adapter above": (
        {"reuse_frozen": True, "learning_rate": 1e-2},
        {"adapter": {**LORA, "layers": [1]}},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_learns(tiny: Path, tmp_path: Path, way: str) -> None:
    method, tables = WAYS[way]
    run = trained(tiny, tmp_path, {**METHOD, **method}, **tables)
    loss = logged(run, "loss")
    assert loss[-1] < 0.7 * loss[0]
    assert logged(run, "held_out_auc")[-1] > 0.75
    assert run.result is not None
    assert read_manifest(run.result.path).kind == "generative"
    assert run.result.is_adapter == ("adapter" in way)


def test_it_asks_what_the_verifier_asks(tiny: Path, tmp_path: Path) -> None:
    train = labelled_rows(tmp_path / "train.jsonl", problems=range(1))
    run = begin(recipe(tiny, METHOD, train), tmp_path)
    encoded = GenerativeVerifier().encode(run)(run.rows[0])
    assert run.tokenizer.decode(encoded.ids) == (
        "<|im_start|>user\nProblem 0?<|im_end|>\n<|im_start|>assistant\n00 x<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}\n{ONE_WORD}<|im_end|>\n<|im_start|>assistant\n"
    )
    reply = [token for token, own in zip(encoded.ids, encoded.mask, strict=True) if own]
    assert run.tokenizer.decode(reply) == "00 x<|im_end|>"


def test_the_first_loss_is_of_the_first_batch(tiny: Path, tmp_path: Path) -> None:
    run = trained(tiny, tmp_path, METHOD, training={"max_steps": 1, "batch_size": 96})
    model = run.policy()
    encode, losses = GenerativeVerifier.model_validate(METHOD).encode(run), []
    for row in run.rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([encode(row).ids])).logits[0, -1]
        label = run.encoder.text("Y" if row.label else "N")
        losses.append(-float(logits.log_softmax(-1)[label[0]]))
    assert logged(run, "loss")[0] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_labels_must_be_tokens(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the label 'Yes' is 3 tokens"):
        trained(tiny, tmp_path, {"type": "generative_verifier"})
    with pytest.raises(ValidationError, match="only the verdict itself"):
        GenerativeVerifier.model_validate({"verifier": {"rationale_tokens": 8}})
