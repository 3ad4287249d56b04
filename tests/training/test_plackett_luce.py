"""Plackett-Luce reward models: a distribution over rankings, and what is learnt from them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from tests.training.test_outcome_reward import served
from tests.training.tiny import begin, logged, recipe, write_rows
from training.losses.reward import bradley_terry, plackett_luce
from training.rows import Labelled
from verifiers.manifest import read_manifest

ALL = torch.ones(1, 3, dtype=torch.bool)


def test_the_loss_by_hand() -> None:
    rewards = torch.tensor([[2.0, 0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    a, b, c = math.exp(2), math.exp(0.5), math.exp(1)
    expected = -math.log(a / (a + b + c)) - math.log(b / (b + c)) - math.log(c / c)
    assert plackett_luce(rewards, ALL).item() == pytest.approx(expected)
    # The survey's, with the sum over all replies in every place, would be this:
    misprint = -sum(math.log(each / (a + b + c)) for each in (a, b, c))
    assert abs(expected - misprint) > 0.5
    assert torch.autograd.gradcheck(lambda r: plackett_luce(r, ALL), (rewards,))


def test_it_is_a_distribution_over_rankings() -> None:
    rewards = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    likelihoods = [
        math.exp(-plackett_luce(rewards[list(order)][None], ALL).item())
        for order in itertools.permutations(range(3))
    ]
    assert sum(likelihoods) == pytest.approx(1)


def test_of_two_replies_it_is_bradley_terry() -> None:
    rewards = torch.tensor([[1.0, -0.5], [0.0, 2.0]])
    both = torch.ones(2, 2, dtype=torch.bool)
    pairwise = bradley_terry(rewards[:, 0], rewards[:, 1])
    assert plackett_luce(rewards, both).item() == pytest.approx(pairwise.item())


def test_rows_may_have_fewer_replies() -> None:
    rewards = torch.tensor([[1.0, -0.5, 9.0], [0.0, 2.0, 1.0]], requires_grad=True)
    ranked = torch.tensor([[True, True, False], [True, True, True]])
    loss = plackett_luce(rewards, ranked)
    first = plackett_luce(rewards[:1, :2], torch.ones(1, 2, dtype=torch.bool))
    second = plackett_luce(rewards[1:], ALL)
    assert loss.item() == pytest.approx((first.item() + second.item()) / 2)
    loss.backward()
    assert rewards.grad is not None
    assert torch.isfinite(rewards.grad).all()
    assert rewards.grad[0, 2] == 0


def test_it_learns_and_is_served(tiny: Path, tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "rankings.jsonl",
        [
            {
                "prompt": f"Problem {number}?",
                "replies": [f"{number} {end}" for end in ("xx", "xy", "yy")[: 2 + number % 2]],
            }
            for number in range(16)
        ],
    )
    said = recipe(tiny, "plackett_luce", rows, training={"max_steps": 24, "batch_size": 4})
    run = begin(said, tmp_path)
    said.method.train(run)
    # Of the first batch's rewards, all 0: log 2 or log 6 for each row, no more for the centre.
    assert math.log(2) <= logged(run, "loss")[0] <= math.log(6) + 1e-5
    assert logged(run, "loss")[-1] < 0.7 * logged(run, "loss")[0]
    assert logged(run, "accuracy")[-1] > 0.8
    assert run.result is not None
    read_manifest(run.result.path, kinds=("orm",))
    row = {"prompt": "Problem 77?", "label": 1.0}
    scores = served(
        run.result.path,
        [Labelled.model_validate({**row, "reply": f"77 {end}"}) for end in ("xx", "yy")],
    )
    assert scores[0] > scores[1]
