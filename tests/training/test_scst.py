"""Self-critical training: the greedy reply's reward is the baseline."""

from __future__ import annotations

from pathlib import Path

from tests.training.rewarded import drawn, gained, trained
from training.methods.scst import SelfCritical


def test_it_learns(tiny: Path, tmp_path: Path) -> None:
    before, after = gained(trained(tiny, tmp_path, {"type": "scst", "samples": 4}))
    assert after > before + 0.3


def test_the_baseline_is_the_greedy_replys_reward_not_the_mean() -> None:
    made = drawn([1.0, 0.0, 1.0, 1.0], [1, 2, 1, 1], samples=2, greedy=[0.0, 0.75])
    credited = SelfCritical(samples=2).credit(made)["advantages"]
    assert credited.tolist() == [1.0, 0.0, 0.25, 0.25]
