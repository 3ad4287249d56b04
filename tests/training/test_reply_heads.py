"""Only replies are projected onto the vocabulary, and the losses are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.trainer import utils

from training.reply_heads import only_replies

IDS = [[1, 20, 30, 40, 50, 60, 2, 0], [1, 21, 31, 41, 2, 0, 0, 0]]
LABELS = [[-100, -100, -100, -100, 50, 60, 2, -100], [-100, -100, -100, 41, 2, -100, -100, -100]]


def fused(directory: Path) -> tuple[float, list[torch.Tensor]]:
    """Return the loss of TRL's fused head, and all gradients."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    utils.add_fused_lm_head(model)
    labels = torch.tensor(LABELS)
    loss = model(input_ids=torch.tensor(IDS), labels=labels, fused_lm_head=True).loss
    loss.backward()
    return loss.item(), [each.grad for each in model.parameters()]


def test_it_is_the_same_loss_of_fewer_positions(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    kernel = utils._ChunkedLogProbFunction

    class Counting:
        @staticmethod
        def apply(hidden: torch.Tensor, *rest: Any) -> Any:
            scored.append(len(hidden))
            return kernel.apply(hidden, *rest)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Counting)
    loss, gradients = fused(tiny)
    with only_replies():
        fewer, others = fused(tiny)
    fused(tiny)
    assert scored == [14, 5, 14]
    assert fewer == pytest.approx(loss, rel=1e-6)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
