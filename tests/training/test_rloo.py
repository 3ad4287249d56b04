"""RLOO: each reply's baseline is the mean of the others'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.rewarded import drawn, gained, trained
from tests.training.tiny import logged
from training.losses.advantages import leave_one_out
from training.methods.rloo import LeaveOneOut


def test_it_learns(tiny: Path, tmp_path: Path) -> None:
    run = trained(tiny, tmp_path, {"type": "rloo", "samples": 8})
    before, after = gained(run)
    assert after > before + 0.3
    kl = logged(run, "kl")
    assert kl[0] < 1e-6
    assert kl[-1] > 0.05


def test_the_baseline_leaves_the_reply_out() -> None:
    advantages = leave_one_out(torch.tensor([[1.0, 0.0, 0.5, 0.5], [2.0, 2.0, 2.0, 2.0]]))
    assert advantages[0].tolist() == pytest.approx([1 - 1 / 3, -2 / 3, 0.0, 0.0])
    assert advantages[1].tolist() == [0.0] * 4


def test_the_kl_of_the_whole_reply_is_in_its_reward() -> None:
    made = drawn(
        [1.0, 0.0],
        [2, 1],
        samples=2,
        columns={
            "old_logprobs": torch.tensor([[0.0, -1.0, -2.0], [0.0, -1.0, 0.0]]),
            "reference_logprobs": torch.tensor([[0.0, -2.0, -3.0], [0.0, -1.5, 0.0]]),
        },
    )
    credited = LeaveOneOut(samples=2, kl=0.1).credit(made)["advantages"]
    # Rewards 1 − 0.1 · 2 = 0.8 and 0 − 0.1 · 0.5 = −0.05.
    assert credited.tolist() == pytest.approx([0.85, -0.85])
