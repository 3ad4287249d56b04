"""TRPO: the step is the natural gradient, inside the trust region, and it pays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.rewarded import gained, said, trained
from tests.training.tiny import begin, logged
from training.losses.trust_region import (
    Measured,
    TrustRegion,
    conjugate_gradient,
    surrogate_and_kl,
)
from training.run import RunError


def test_it_learns_within_the_region(tiny: Path, tmp_path: Path) -> None:
    method = {"type": "trpo", "learning_rate": 1.0, "radius": 0.1, "damping": 0.01}
    run = trained(tiny, tmp_path, method, training={"max_steps": 15})
    before, after = gained(run)
    assert after > before + 0.3
    steps = logged(run, "step_kl")[1:]
    assert all(0 <= kl <= 0.1 for kl in steps)
    assert sum(kl > 0.02 for kl in steps) > len(steps) / 2


def test_conjugate_gradients_solve() -> None:
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(6)
    target = torch.randn(6, dtype=torch.float64)
    solved = conjugate_gradient(lambda vector: matrix @ vector, target, 6)
    torch.testing.assert_close(solved, torch.linalg.solve(matrix, target))


def test_surrogate_and_kl_by_hand() -> None:
    old = torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]).log()
    new = torch.tensor([[[0.8, 0.2], [0.5, 0.5]]]).log()
    ids, mask = torch.tensor([[0, 1]]), torch.tensor([[True, True]])
    measured = surrogate_and_kl(new, old, ids, torch.tensor([[2.0]]), mask)
    assert float(measured.surrogate) == pytest.approx((0.8 / 0.5 + 0.5 / 0.75) * 2 / 2)
    # KL of old to new, not the other way round.
    first = 0.5 * torch.tensor(0.5 / 0.8).log() + 0.5 * torch.tensor(0.5 / 0.2).log()
    second = 0.25 * torch.tensor(0.25 / 0.5).log() + 0.75 * torch.tensor(0.75 / 0.5).log()
    assert float(measured.kl) == pytest.approx(float(first + second) / 2)
    half = surrogate_and_kl(new, old, ids, torch.tensor([[2.0]]), torch.tensor([[True, False]]))
    assert float(half.surrogate) == pytest.approx(3.2)


def _stepped(scale: float) -> tuple[torch.Tensor, torch.Tensor, TrustRegion, Measured]:
    """Step once on a tabular policy of three actions; return the weights before and after."""
    theta = torch.nn.Parameter(torch.tensor([[0.5, 0.0, -0.5]], dtype=torch.float64))
    before = theta.detach().clone()
    advantages = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    ids, mask = torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool)
    region = TrustRegion([theta], radius=1e-4, damping=0.0, iterations=10, halvings=10)

    def measure() -> Measured:
        new = theta[:, None].expand(1, 3, 3)
        return surrogate_and_kl(new, before[:, None].expand(1, 3, 3), ids, advantages, mask)

    region.measure = measure
    (-scale * measure().surrogate).backward()
    region.step()
    return before, theta.detach(), region, measure()


def test_the_step_reaches_the_edge_and_improves() -> None:
    _, _, region, measured = _stepped(1.0)
    assert 0.9e-4 < region.kl <= 1e-4
    assert float(measured.kl.detach()) == pytest.approx(region.kl)
    assert float(measured.surrogate.detach()) > 0


def test_the_direction_is_the_natural_gradient() -> None:
    before, after, _, _ = _stepped(1.0)
    probabilities = before[0].softmax(-1)
    fisher = torch.diag(probabilities) - torch.outer(probabilities, probabilities)
    # ∇ E[ρA] over the three tokens: mean of A (onehot − p).
    gradient = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64) / 3
    natural = torch.linalg.pinv(fisher) @ gradient
    step = (after - before)[0]
    assert float(torch.nn.functional.cosine_similarity(step, natural, 0)) == pytest.approx(1, 1e-3)
    assert float(torch.nn.functional.cosine_similarity(step, gradient, 0)) < 0.999


def test_the_losss_scale_makes_no_difference() -> None:
    torch.testing.assert_close(_stepped(1.0)[1], _stepped(100.0)[1])


def test_a_round_is_one_forward_pass(tiny: Path, tmp_path: Path) -> None:
    recipe = said(tiny, tmp_path, {"type": "trpo", "learning_rate": 1}, training={"accumulate": 2})
    with pytest.raises(RunError, match="accumulate must be 1"):
        recipe.method.train(begin(recipe, tmp_path))
