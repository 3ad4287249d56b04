"""IPO: its loss in numbers and against TRL, and where it stops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.preferences import log_ratios, measured, one_step, pairs, replies, trained
from tests.training.tiny import logged
from training.losses.preference import ipo_loss


def test_the_closed_form() -> None:
    margins = torch.tensor([0.0, 5.0, 7.0])
    assert ipo_loss(margins, 0.1).tolist() == pytest.approx([25.0, 0.0, 4.0])


def test_the_gradient() -> None:
    margin = torch.tensor([0.3, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: ipo_loss(each, 0.1), margin)
    ipo_loss(margin, 0.1).sum().backward()
    assert margin.grad is not None
    assert margin.grad.tolist() == pytest.approx([2 * (0.3 - 5), 2 * (9 - 5)])


def test_what_trl_trains_by_is_the_closed_form(tiny: Path, tmp_path: Path) -> None:
    run = one_step(tiny, {"type": "ipo", "beta": 0.5}, pairs(tmp_path), tmp_path)
    ratios = [log_ratios(run, rows) / measured(run, run.policy(), rows)[1] for rows in replies(run)]
    expected = ipo_loss(ratios[0] - ratios[1], 0.5).mean()
    assert logged(run, "loss")[0] == pytest.approx(float(expected), rel=1e-4)
    whole = [log_ratios(run, rows) for rows in replies(run)]
    assert logged(run, "loss")[0] != pytest.approx(
        float(ipo_loss(whole[0] - whole[1], 0.5).mean()), rel=0.1
    )


def test_it_learns_the_preference(tiny: Path, tmp_path: Path) -> None:
    method = {"type": "ipo", "beta": 0.5}
    run, manifest = trained(tiny, method, pairs(tmp_path), tmp_path)
    losses = logged(run, "loss")
    assert losses[0] == pytest.approx(1.0, rel=1e-3)
    assert losses[-1] < 0.7
    assert manifest.kind == "policy"
