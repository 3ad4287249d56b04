"""REINFORCE: what tokens are credited with, the loss and its gradient, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.training.rewarded import drawn, gained, trained
from tests.training.tiny import logged
from training.losses.advantages import rewards_to_go, shaped_rewards, whitened
from training.losses.policy_gradient import chosen_logprobs, k3, reduce, reinforce, token_entropy
from training.methods.reinforce import Reinforce

MASK = torch.tensor([[False, True, True], [False, True, False]])
NONE = torch.tensor(1.0)


def test_it_learns(tiny: Path, tmp_path: Path) -> None:
    before, after = gained(trained(tiny, tmp_path, {"type": "reinforce", "samples": 8}))
    assert after > before + 0.3


def test_plus_plus_learns(tiny: Path, tmp_path: Path) -> None:
    method = {"type": "reinforce", "baseline": "none", "normalise": True, "kl": 0.01}
    run = trained(tiny, tmp_path, {**method, "samples": 8, "reduction": "token"})
    before, after = gained(run)
    assert after > before + 0.3
    kl = logged(run, "kl")
    assert kl[0] < 1e-6
    assert kl[-1] > 0.05


def test_a_token_is_rewarded_with_its_kl_and_the_last_one_with_the_reply() -> None:
    old = torch.tensor([[9.0, -1.0, -2.0], [9.0, -1.0, 9.0]])
    reference = torch.tensor([[0.0, -1.5, -1.0], [0.0, -3.0, 0.0]])
    shaped = shaped_rewards(torch.tensor([1.0, 0.0]), old, reference, MASK, kl=0.1)
    torch.testing.assert_close(shaped, torch.tensor([[0.0, -0.05, 1.1], [0.0, -0.2, 0.0]]))
    to_go = rewards_to_go(shaped, MASK)
    torch.testing.assert_close(to_go, torch.tensor([[0.0, 1.05, 1.1], [0.0, -0.2, 0.0]]))


def test_baselines() -> None:
    made = drawn([1.0, 0.0, 1.0, 1.0], [1, 2, 1, 1], samples=2)

    def credited(baseline: str) -> list[float]:
        method = Reinforce.model_validate({"baseline": baseline, "samples": 2})
        return method.credit(made)["advantages"][:, 1].tolist()

    assert credited("none") == [1.0, 0.0, 1.0, 1.0]
    assert credited("batch") == [0.25, -0.75, 0.25, 0.25]
    assert credited("group") == [0.5, -0.5, 0.0, 0.0]


def test_normalised_advantages_have_mean_0_and_deviation_1_over_tokens() -> None:
    white = whitened(torch.tensor([[7.0, 1.0, 2.0], [7.0, 6.0, 7.0]]), MASK)
    # Of 1, 2, 6: mean 3, unbiased variance (4 + 1 + 9) / 2 = 7.
    expected = [(value - 3) / (math.sqrt(7) + 1e-4) for value in (1, 2, 6)]
    assert white[MASK].tolist() == pytest.approx(expected)
    assert white[~MASK].tolist() == [0.0, 0.0, 0.0]


def test_the_gradient_is_the_advantage_times_the_score() -> None:
    logits = torch.tensor([[[0.1, 0.2, 0.3]] * 3] * 2, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[0, 1, 2], [2, 0, 1]])
    advantages = torch.tensor([[2.0], [-1.0]]).expand(2, 3)
    losses = reinforce(logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0], advantages)
    reduce(losses, MASK, "sum", mean_tokens=NONE, longest=1).backward()
    score = torch.nn.functional.one_hot(ids, 3) - logits.detach().softmax(-1)
    expected = -advantages[..., None] * score * MASK[..., None] / 2
    torch.testing.assert_close(logits.grad, expected)


def test_reductions() -> None:
    losses = torch.tensor([[9.0, 1.0, 2.0], [9.0, 4.0, 9.0]])
    tokens = torch.tensor(5.0)

    def reduced(reduction: str) -> float:
        return float(reduce(losses, MASK, reduction, mean_tokens=tokens, longest=10))

    assert reduced("sum") == pytest.approx((3 + 4) / 2)
    assert reduced("reply") == pytest.approx((1.5 + 4) / 2)
    assert reduced("token") == pytest.approx((3 + 4) / 5)
    assert reduced("constant") == pytest.approx((3 + 4) / (2 * 10))


def test_k3_is_kl_on_average_and_never_negative() -> None:
    policy = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
    reference = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64).log()
    estimates = k3(policy, reference)
    assert bool((estimates > 0).all())
    kl = float((policy.exp() * (policy - reference)).sum())
    assert float((policy.exp() * estimates).sum()) == pytest.approx(kl)
    # Of one token by hand: 3/7 − log(3/7) − 1.
    assert float(estimates[0]) == pytest.approx(3 / 7 - math.log(3 / 7) - 1)


def test_entropy_and_chosen_logprobs() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0]]])
    entropy = [math.log(2), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]
    assert token_entropy(logits)[0].tolist() == pytest.approx(entropy)
    chosen = chosen_logprobs(logits, torch.tensor([[1, 0]]))
    assert chosen[0].tolist() == pytest.approx([math.log(0.5), math.log(0.75)])
