"""CPO: its loss in numbers and against TRL, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.training.preferences import measured, one_step, pairs, replies, trained
from tests.training.tiny import logged
from training.losses.preference import cpo_loss

CHOSEN, REJECTED = torch.tensor([-4.0, -9.0]), torch.tensor([-6.0, -2.0])


def test_the_closed_form() -> None:
    expected = [math.log1p(math.exp(-1.0)), math.log1p(math.exp(3.5))]
    assert cpo_loss(CHOSEN, REJECTED, 0.5).tolist() == pytest.approx(expected)


def test_trl_has_the_same_loss() -> None:
    from trl.experimental.cpo import CPOTrainer

    told = SimpleNamespace(
        alpha=0.0,
        beta=0.5,
        label_smoothing=0.0,
        loss_type="sigmoid",
        accelerator=SimpleNamespace(device="cpu"),
    )
    theirs, *_ = CPOTrainer.cpo_loss(told, CHOSEN, REJECTED)
    assert cpo_loss(CHOSEN, REJECTED, 0.5).tolist() == pytest.approx(theirs.tolist())


def test_the_gradient() -> None:
    logprobs = [each.double().requires_grad_() for each in (CHOSEN, REJECTED)]
    assert torch.autograd.gradcheck(lambda a, b: cpo_loss(a, b, 0.5), logprobs)


def test_what_is_logged_is_the_closed_form(tiny: Path, tmp_path: Path) -> None:
    method = {"type": "cpo", "beta": 0.3, "likelihood_weight": 0.5}
    run = one_step(tiny, method, pairs(tmp_path), tmp_path)
    (chosen, tokens), (rejected, _) = (measured(run, run.policy(), rows) for rows in replies(run))
    expected = (cpo_loss(chosen, rejected, 0.3) - 0.5 * chosen / tokens).mean()
    assert logged(run, "loss")[0] == pytest.approx(float(expected), rel=1e-4)


def test_it_learns_the_preference(tiny: Path, tmp_path: Path) -> None:
    run, manifest = trained(tiny, "cpo", pairs(tmp_path), tmp_path)
    losses, margins = logged(run, "loss"), logged(run, "margin")
    assert losses[-1] < 0.7 * losses[0]
    assert margins[-1] > margins[0]
    assert logged(run, "logps/chosen")[-1] > logged(run, "logps/chosen")[0]
    assert manifest.kind == "policy"
