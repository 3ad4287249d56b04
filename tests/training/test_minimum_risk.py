"""Minimum risk: Q is renormalised over the distinct samples."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.training.rewarded import drawn, gained, said, trained
from tests.training.tiny import begin
from training.losses.policy_gradient import minimum_risk
from training.methods.minimum_risk import MinimumRisk
from training.run import RunError
from verifiers.types import Candidate

LOGPROBS = torch.tensor([[0.2, 0.1, 0.4]], dtype=torch.float64).log()
REWARDS = torch.tensor([[1.0, 0.0, -2.0]], dtype=torch.float64)
ALL = torch.ones(1, 3, dtype=torch.bool)


def test_it_learns(tiny: Path, tmp_path: Path) -> None:
    method = {"type": "minimum_risk", "samples": 16, "alpha": 0.5}
    before, after = gained(trained(tiny, tmp_path, method))
    assert after > before + 0.3


def test_q_is_renormalised_over_the_samples() -> None:
    loss = float(minimum_risk(LOGPROBS, REWARDS, ALL, 1.0))
    assert loss == pytest.approx(-(0.2 * 1 + 0.1 * 0 + 0.4 * -2) / 0.7)
    # The survey's Σ p Δ is another number.
    assert loss != pytest.approx(-(0.2 * 1 + 0.1 * 0 + 0.4 * -2))
    # A constant more of reward changes nothing that is trained: only a renormalised Q can do that.
    gradients = []
    for more in (0.0, 5.0):
        logprobs = LOGPROBS.clone().requires_grad_()
        minimum_risk(logprobs, REWARDS + more, ALL, 1.0).backward()
        gradients.append(logprobs.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_alpha_sharpens() -> None:
    roots = [math.sqrt(each) for each in (0.2, 0.1, 0.4)]
    expected = -(roots[0] - 2 * roots[2]) / sum(roots)
    assert float(minimum_risk(LOGPROBS, REWARDS, ALL, 0.5)) == pytest.approx(expected)


def test_equal_samples_count_once() -> None:
    distinct = torch.tensor([[True, True, False]])
    assert float(minimum_risk(LOGPROBS, REWARDS, distinct, 1.0)) == pytest.approx(-0.2 / 0.3)
    replies = [Candidate(str(place), token_ids=ids) for place, ids in enumerate([(5, 2), (6, 2)])]
    again = [replies[0], replies[1], replies[0], replies[0]]
    made = drawn([1.0, 0.0, 1.0, 1.0], [2] * 4, samples=2, replies=again)
    # The second group's are equal to each other; the first's to another group's do not matter.
    assert MinimumRisk(samples=2).credit(made)["distinct"].tolist() == [True, True, True, False]


def test_the_gradient() -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: minimum_risk(each, REWARDS, ALL, 0.7), logprobs)


def test_a_forward_pass_takes_whole_groups(tiny: Path, tmp_path: Path) -> None:
    recipe = said(
        tiny,
        tmp_path,
        {"type": "minimum_risk", "samples": 16},
        training={"batch_size": 8, "accumulate": 2},
    )
    with pytest.raises(RunError, match="batch_size 8 is no multiple of `samples` = 16"):
        recipe.method.train(begin(recipe, tmp_path))
