"""Advantage actor-critic: whole returns against a learned value."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.rewarded import drawn, gained, trained
from training.methods.a2c import ActorCritic


def test_it_learns(tiny: Path, tmp_path: Path) -> None:
    run = trained(tiny, tmp_path, {"type": "a2c", "samples": 4})
    before, after = gained(run)
    assert after > before + 0.3


def test_advantages_are_returns_above_the_value() -> None:
    values = torch.tensor([[0.0, 0.25, 0.5], [0.0, 0.25, 0.0]])
    made = drawn([1.0, 0.0], [2, 1], samples=1, columns={"old_values": values})
    credited = ActorCritic().credit(made)
    assert credited["returns"].tolist() == [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    assert credited["advantages"].tolist() == [[0.0, 0.75, 0.5], [0.0, -0.25, 0.0]]


def test_the_discount() -> None:
    made = drawn([1.0], [3], samples=1, columns={"old_values": torch.zeros(1, 4)})
    credited = ActorCritic(discount=0.5).credit(made)
    assert credited["returns"][0].tolist() == pytest.approx([0.0, 0.25, 0.5, 1.0])


def test_the_loss_by_hand() -> None:
    """Two tokens of three, one reply: uniform logits, so log π = −log 3 and H = log 3."""

    class Uniform(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
            from training.on_policy.value_head import Valued

            shape = input_ids.shape
            return Valued(torch.zeros(*shape, 3), torch.full(shape, 0.5))

    batch = {
        "input_ids": torch.tensor([[0, 1, 2]]),
        "attention_mask": torch.ones(1, 3),
        "reply_mask": torch.tensor([[False, True, True]]),
        "advantages": torch.tensor([[1.0, 3.0]]),
        "returns": torch.tensor([[1.0, 0.0]]),
        "mean_tokens": torch.tensor(2.0),
    }
    method = ActorCritic(value_weight=0.5, entropy_weight=0.01)
    loss, told = method.loss(Uniform(), batch)
    log3 = float(torch.tensor(3.0).log())
    assert float(told["policy_loss"]) == pytest.approx(2 * log3)
    assert float(told["value_loss"]) == pytest.approx(0.25)
    assert float(loss) == pytest.approx(2 * log3 + 0.5 * 0.25 - 0.01 * log3)
