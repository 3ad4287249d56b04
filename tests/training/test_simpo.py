"""SimPO: its loss in numbers and against TRL, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.training.preferences import measured, one_step, pairs, replies, trained
from tests.training.tiny import logged
from training.losses.preference import simpo_loss

CHOSEN, REJECTED = torch.tensor([-0.4, -0.9]), torch.tensor([-1.6, -0.2])


def test_the_closed_form() -> None:
    # 2.5 · 1.2 − 1.375 = 1.625; 2.5 · (−0.7) − 1.375 = −3.125
    expected = [math.log1p(math.exp(-1.625)), math.log1p(math.exp(3.125))]
    assert simpo_loss(CHOSEN, REJECTED, 2.5, 1.375).tolist() == pytest.approx(expected)


def test_trl_has_the_same_loss_and_means_the_same_by_gamma() -> None:
    from trl.experimental.cpo import CPOTrainer

    told = SimpleNamespace(
        alpha=0.0,
        beta=2.5,
        simpo_gamma=1.375,
        label_smoothing=0.0,
        loss_type="simpo",
        accelerator=SimpleNamespace(device="cpu"),
    )
    theirs, *_ = CPOTrainer.cpo_loss(told, CHOSEN, REJECTED)
    assert simpo_loss(CHOSEN, REJECTED, 2.5, 1.375).tolist() == pytest.approx(theirs.tolist())


def test_the_gradient() -> None:
    logprobs = [each.double().requires_grad_() for each in (CHOSEN, REJECTED)]
    assert torch.autograd.gradcheck(lambda a, b: simpo_loss(a, b, 2.5, 1.375), logprobs)


def test_what_is_logged_is_the_closed_form(tiny: Path, tmp_path: Path) -> None:
    run = one_step(tiny, "simpo", pairs(tmp_path), tmp_path)
    chosen, rejected = (
        total / tokens
        for total, tokens in (measured(run, run.policy(), rows) for rows in replies(run))
    )
    expected = simpo_loss(chosen, rejected, 2.5, 1.375).mean()
    assert logged(run, "loss")[0] == pytest.approx(float(expected), rel=1e-4)


def test_it_learns_the_preference(tiny: Path, tmp_path: Path) -> None:
    run, manifest = trained(tiny, "simpo", pairs(tmp_path), tmp_path)
    losses, margins = logged(run, "loss"), logged(run, "margin")
    assert losses[-1] < 0.7 * losses[0]
    assert margins[-1] > margins[0]
    assert logged(run, "accuracy")[-1] == 1.0
    assert manifest.kind == "policy"
