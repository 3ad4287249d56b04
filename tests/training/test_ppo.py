"""PPO: GAE, the clip and its gradient, the ratio's denominator, and that it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.rewarded import drawn, gained, trained
from tests.training.tiny import logged
from training.losses.advantages import generalised_advantages
from training.losses.policy_gradient import clipped_surrogate, clipped_values
from training.methods.ppo import PPO

MASK = torch.ones(1, 1, dtype=torch.bool)


def test_it_learns(tiny: Path, tmp_path: Path) -> None:
    method = {"type": "ppo", "samples": 2, "learning_rate": 1e-3}
    run = trained(tiny, tmp_path, method, training={"max_steps": 60})
    before, after = gained(run)
    assert after > before + 0.3
    # The first of the four epochs is at the old policy itself: nothing can be clipped.
    clipped = logged(run, "clip_fraction")
    assert clipped[::4] == [0.0] * 15
    assert max(clipped) > 0
    checkpoint = run.store.find(run.result.spec)
    from safetensors import safe_open

    with safe_open(checkpoint.path / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert names == set(run.policy().state_dict())


def test_generalised_advantages_by_hand() -> None:
    rewards = torch.tensor([[0.0, 0.5, 1.0, 9.0]])
    values = torch.tensor([[0.2, 0.4, 0.6, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    advantages, returns = generalised_advantages(rewards, values, mask, 0.9, 0.5)
    third = 1.0 - 0.6
    second = (0.5 + 0.9 * 0.6 - 0.4) + 0.45 * third
    first = (0.0 + 0.9 * 0.4 - 0.2) + 0.45 * second
    assert advantages[0].tolist() == pytest.approx([first, second, third, 0.0])
    assert returns[0].tolist() == pytest.approx([first + 0.2, second + 0.4, third + 0.6, 0.0])


def test_with_lambda_0_it_is_one_step_and_with_1_the_whole_return() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.1, 0.2, 0.4]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    one, _ = generalised_advantages(rewards, values, mask, 1.0, 0.0)
    assert one[0].tolist() == pytest.approx([0.1, 0.2, 0.6])
    whole, _ = generalised_advantages(rewards, values, mask, 1.0, 1.0)
    assert whole[0].tolist() == pytest.approx([0.9, 0.8, 0.6])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.1, 2.0, -2.2, False),
        (1.5, 2.0, -2.4, True),
        (1.5, -2.0, 3.0, False),
        (0.5, 2.0, -1.0, False),
        (0.5, -2.0, 1.6, True),
    ],
)
def test_the_clip_and_its_gradient(
    ratio: float, advantage: float, loss: float, clipped: bool
) -> None:
    logprobs = torch.tensor([[ratio]]).log().requires_grad_()
    found = clipped_surrogate(
        logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), MASK, 0.2, 0.2
    )
    assert float(found.loss.detach()) == pytest.approx(loss)
    assert bool(found.clipped) is clipped
    found.loss.sum().backward()
    # d(−ρA)/d log π = −ρA where it is not clipped, and nothing where it is.
    assert float(logprobs.grad) == pytest.approx(0.0 if clipped else -ratio * advantage)


def test_the_ratio_is_to_the_old_policy_not_to_the_reference() -> None:
    """The survey prints π/π_ref: far from the reference, that would be clipped from the start."""

    class Model(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
            from training.on_policy.value_head import Valued

            return Valued(torch.zeros(*input_ids.shape, 2), torch.zeros(input_ids.shape))

    old = torch.full((1, 1), 0.5).log()
    batch = {
        "input_ids": torch.tensor([[0, 1]]),
        "attention_mask": torch.ones(1, 2),
        "reply_mask": torch.tensor([[False, True]]),
        "old_logprobs": old,
        "reference_logprobs": old - 3,
        "old_values": torch.zeros(1, 1),
        "advantages": torch.ones(1, 1),
        "returns": torch.ones(1, 1),
        "mean_tokens": torch.tensor(1.0),
    }
    loss, told = PPO().loss(Model(), batch)
    assert float(told["policy_loss"]) == pytest.approx(-1.0)
    assert float(told["clip_fraction"]) == 0.0
    assert float(loss) == pytest.approx(-1.0 + 0.1 * 0.5)


def test_the_reference_is_in_the_rewards() -> None:
    columns = {
        "old_logprobs": torch.tensor([[0.0, -1.0, -2.0]]),
        "reference_logprobs": torch.tensor([[0.0, -1.5, -1.0]]),
        "old_values": torch.zeros(1, 3),
    }
    made = drawn([1.0], [2], samples=1, columns=columns)
    method = PPO(kl=0.1, lam=1.0, normalise=False)
    # −0.1 · 0.5 and 1 − 0.1 · −1, summed from each token on.
    assert method.credit(made)["returns"][0].tolist() == pytest.approx([0.0, 1.05, 1.1])


def test_values_are_clipped() -> None:
    old, returns = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])
    values = torch.tensor([1.5, 1.1])
    # 1.5 counts as 1.2: ½ · 0.8²; 1.1 is within reach: ½ · 0.9².
    assert clipped_values(values, old, returns, 0.2).tolist() == pytest.approx([0.32, 0.405])


def test_gradients() -> None:
    torch.manual_seed(0)
    logprobs = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    old, advantages = torch.randn(2, 3, 4, dtype=torch.float64)
    mask = torch.ones(3, 4, dtype=torch.bool)
    for importance in ("token", "sequence"):
        assert torch.autograd.gradcheck(
            lambda each, how=importance: (
                clipped_surrogate(each, old, advantages, mask, 0.2, 0.28, how).loss
            ),
            logprobs,
        )
