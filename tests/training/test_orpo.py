"""ORPO: its loss in numbers and against TRL, what the survey misprints, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import logsigmoid

from tests.training.preferences import measured, one_step, pairs, replies, trained
from tests.training.tiny import logged
from training.losses.preference import orpo_loss

CHOSEN = torch.tensor([math.log(0.5), math.log(0.2)])
REJECTED = torch.tensor([math.log(0.25), math.log(0.5)])


def test_the_closed_form() -> None:
    # Odds: 1 and 1/3, 1/4 and 1; ratios 3 and 1/4; −log σ(log r) = log(1 + 1 / r).
    expected = [math.log(2) + 0.1 * math.log(4 / 3), math.log(5) + 0.1 * math.log(5)]
    assert orpo_loss(CHOSEN, REJECTED, 0.1).tolist() == pytest.approx(expected)


def test_the_surveys_formula_is_another() -> None:
    ratio_of_probabilities = CHOSEN - REJECTED
    misprinted = -logsigmoid(ratio_of_probabilities)
    assert orpo_loss(CHOSEN, REJECTED, 0.1).tolist() != pytest.approx(misprinted.tolist(), rel=0.1)
    with_imitation = -CHOSEN - 0.1 * logsigmoid(ratio_of_probabilities)
    ours = orpo_loss(CHOSEN, REJECTED, 0.1)
    assert ours.tolist() != pytest.approx(with_imitation.tolist(), rel=0.01)


def test_trl_has_the_same_loss_of_odds() -> None:
    from trl.experimental.orpo import ORPOTrainer

    told = SimpleNamespace(beta=0.1, accelerator=SimpleNamespace(device="cpu"))
    theirs, *_ = ORPOTrainer.odds_ratio_loss(told, CHOSEN, REJECTED)
    ours = orpo_loss(CHOSEN, REJECTED, 0.1)
    assert ours.tolist() == pytest.approx((-CHOSEN - theirs).tolist())


def test_the_gradient() -> None:
    logprobs = [each.double().requires_grad_() for each in (CHOSEN, REJECTED)]
    assert torch.autograd.gradcheck(lambda a, b: orpo_loss(a, b, 0.1), logprobs)


def test_certainty_is_no_infinity() -> None:
    chosen = torch.zeros(1, requires_grad=True)
    loss = orpo_loss(chosen, torch.full((1,), -100.0), 0.1).sum()
    loss.backward()
    assert math.isfinite(loss.item())
    assert chosen.grad is not None
    assert torch.isfinite(chosen.grad).all()


def test_what_is_logged_is_the_closed_form(tiny: Path, tmp_path: Path) -> None:
    run = one_step(tiny, "orpo", pairs(tmp_path), tmp_path)
    chosen, rejected = (
        total / tokens
        for total, tokens in (measured(run, run.policy(), rows) for rows in replies(run))
    )
    expected = orpo_loss(chosen, rejected, 0.1).mean()
    assert logged(run, "loss")[0] == pytest.approx(float(expected), rel=1e-4)


def test_it_learns_the_reply_and_the_preference(tiny: Path, tmp_path: Path) -> None:
    run, manifest = trained(tiny, "orpo", pairs(tmp_path), tmp_path)
    losses, margins = logged(run, "loss"), logged(run, "margin")
    assert losses[-1] < 0.7 * losses[0]
    assert margins[-1] > margins[0]
    assert logged(run, "logps/chosen")[-1] > logged(run, "logps/chosen")[0]
    assert manifest.kind == "policy"
