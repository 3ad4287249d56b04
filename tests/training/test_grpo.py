"""GRPO: advantages of outcomes and of steps, its relatives, TRL's own value, and that it learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from tests.training.rewarded import drawn, gained, reward, said, tokens, trained
from tests.training.tiny import begin, logged
from training.encoding import Encoded, token_logprobs
from training.losses.advantages import group_relative, step_relative
from training.losses.policy_gradient import clipped_surrogate
from training.methods.grpo import GRPO
from training.on_policy.grpo_trainer import GRPOTrainer, trl_arguments
from training.on_policy.step_credit import ends_in_tokens, step_advantages
from training.rewards import RewardSample
from training.rows import Prompted
from training.run import Run, RunError
from verifiers.steps import step_ends
from verifiers.types import Candidate


def test_it_learns_by_trl(tiny: Path, tmp_path: Path) -> None:
    run = trained(tiny, tmp_path, {"type": "grpo", "samples": 8})
    before, after = gained(run)
    assert after > before + 0.3
    told = {"reward", "reward_std", "rewards/regex", "accuracy", "kl", "entropy", "reply_tokens"}
    for name in (*told, "cut", "clip_fraction", "generation_seconds"):
        assert len(logged(run, name)) == 25, name
    assert logged(run, "accuracy") == pytest.approx(logged(run, "reward"), abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "dr_grpo", "scale_rewards": "none", "kl": 0},
        {"loss_type": "dapo", "clip_high": 0.28, "kl": 0, "redraws": 2, "updates": 2},
        {"importance": "sequence", "clip": 3e-2, "clip_high": 4e-2, "kl": 0, "steps": 2},
    ],
    ids=["dr_grpo", "dapo", "gspo"],
)
def test_relatives_learn(tiny: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    batch = {"batch_size": 64 // options.get("steps", 1)}
    method = {"type": "grpo", "samples": 8, **options}
    before, after = gained(trained(tiny, tmp_path, method, training=batch))
    assert after > before + 0.25


class LetterSteps:
    """Rewards each step of a reply, cut at every `a`, for beginning with a letter."""

    logprobs = None

    def check(self, rows: Sequence[Prompted]) -> None:
        """Every row will do."""

    def score(
        self, rows: Sequence[Prompted], replies: Sequence[Sequence[Candidate]]
    ) -> list[list[RewardSample]]:
        return [[self._judged(reply.text) for reply in group] for group in replies]

    def _judged(self, text: str) -> RewardSample:
        starts = [0, *step_ends(text, "a")][:-1]
        steps = tuple(float(text[start].isalpha()) for start in starts)
        return reward(steps[0] if steps else 0.0, steps)


def test_process_supervision_learns(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "rewards", lambda run, rollouts: nullcontext(LetterSteps()))
    method = {"type": "grpo", "samples": 8, "supervision": "process", "step_mark": "a"}
    before, after = gained(trained(tiny, tmp_path, method))
    assert after > before + 0.3


@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_our_loss_is_trls(tiny: Path, tmp_path: Path, loss_type: str, importance: str) -> None:
    """On replies of unequal lengths, off the old policy and off the reference."""
    named = {"type": "grpo", "samples": 4, "loss_type": loss_type, "importance": importance}
    recipe = said(tiny, tmp_path, {**named, "kl": 0.1}, training={"batch_size": 4})
    run, method = begin(recipe, tmp_path), recipe.method
    assert isinstance(method, GRPO)
    trainer = GRPOTrainer(
        model=run.policy(),
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=trl_arguments(run, method),
        train_dataset=Dataset.from_list([{"prompt": "q"}] * 4),
        processing_class=run.tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    torch.manual_seed(0)
    prompt, lengths = 3, [4, 2, 1, 4]
    rows = [Encoded((5,) * (prompt + n), (False,) * prompt + (True,) * n) for n in lengths]
    batch = run.encoder.batch(rows)
    mask = batch["reply_mask"][:, 1:]
    now = token_logprobs(trainer.model, batch).detach()
    old, reference = (now + 0.3 * torch.randn(now.shape) for _ in range(2))
    advantages = torch.tensor([1.5, -0.5, -1.0, 0.25])
    theirs = trainer._compute_loss(
        trainer.model.train(),
        {
            "prompt_ids": batch["input_ids"][:, :prompt],
            "prompt_mask": batch["attention_mask"][:, :prompt],
            "completion_ids": batch["input_ids"][:, prompt:],
            "completion_mask": batch["attention_mask"][:, prompt:],
            "advantages": advantages,
            "old_per_token_logps": old[:, prompt - 1 :],
            "ref_per_token_logps": reference[:, prompt - 1 :],
            "num_items_in_batch": mask.sum(),
        },
    )
    given = {"old_logprobs": old * mask, "reference_logprobs": reference * mask, "counted": mask}
    tokens = mask.sum().float()
    ours, _ = method.loss(
        trainer.model,
        {**batch, **given, "advantages": advantages[:, None] * mask, "mean_tokens": tokens},
    )
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    for one, other in zip(
        *(_gradients(trainer.model, each) for each in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def _gradients(model: torch.nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [each.grad.clone() for each in model.parameters() if each.grad is not None]


def test_groups_are_normalised() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    # Mean 1/4, unbiased variance (9/16 + 3/16) / 3 = 1/4.
    expected = [0.75 / (0.5 + 1e-4), *[-0.25 / (0.5 + 1e-4)] * 3]
    assert group_relative(rewards)[0].tolist() == pytest.approx(expected)
    assert group_relative(rewards)[1].tolist() == [0.0] * 4
    assert group_relative(rewards, "none")[0].tolist() == [0.75, -0.25, -0.25, -0.25]
    # Of all eight, five of them 1: mean 5/8, variance (5 · 9/64 + 3 · 25/64) / 7 = 15/56.
    whole = group_relative(rewards, "batch")[0, 0]
    assert float(whole) == pytest.approx(0.75 / (math.sqrt(15 / 56) + 1e-4))


def test_a_token_is_credited_with_the_steps_from_it_on() -> None:
    """Two replies: steps of 0 and 1 ending at tokens 1 and 3; one step of 1 ending at token 2."""
    advantages = step_relative([(0.0, 1.0), (1.0,)], [(1, 3), (2,)], 2, [3, 2])
    # Of 0, 1, 1: mean 2/3, unbiased variance (4/9 + 1/9 + 1/9) / 2 = 1/3.
    deviation = math.sqrt(1 / 3) + 1e-4
    low, high = -2 / 3 / deviation, 1 / 3 / deviation
    assert advantages[0] == pytest.approx([low + high, high, high])
    assert advantages[1] == pytest.approx([high, high])


def test_steps_end_at_tokens() -> None:
    reply = Candidate(
        "0",
        "a\n\nb\n\n",
        (1, 2, 3, 4, 9),
        logprobs=tokens("a", "\n", "\nb", "\n\n", ""),
        finish_reason="stop",
    )
    # A token that spans a step's end belongs to the step; the last step takes the reply's end.
    assert ends_in_tokens(reply, "\n\n", 2) == [3, 5]
    with pytest.raises(RunError, match="3 steps were scored of a reply that"):
        ends_in_tokens(reply, "\n\n", 3)


def test_special_tokens_and_parts_of_characters_do_not_lose_the_place() -> None:
    reply = Candidate(
        "0",
        "é\n\nb",
        (1, 2, 3, 4, 5, 9),
        logprobs=tokens("<|s|>", "\ufffd", "\ufffd", "\n\n", "b", "<|end|>"),
        finish_reason="stop",
    )
    assert ends_in_tokens(reply, "\n\n", 2) == [4, 6]


def test_steps_of_a_round() -> None:
    replies = [
        Candidate(
            "0", "a\n\nb", (1, 2, 3), logprobs=tokens("a", "\n\n", "b"), finish_reason="stop"
        ),
        Candidate("1", "c", (4,), logprobs=tokens("c"), finish_reason="stop"),
    ]
    made = drawn([0.0, 0.0], [3, 1], samples=2, replies=replies)
    with pytest.raises(RunError, match="no reward scores steps"):
        step_advantages(made, "\n\n")
    scored = replace(made, rewards=(reward(1.0, (0.0, 1.0)), reward(1.0, (1.0,))))
    found = step_advantages(scored, "\n\n")
    deviation = math.sqrt(1 / 3) + 1e-4
    low, high = -2 / 3 / deviation, 1 / 3 / deviation
    assert found[0].tolist() == pytest.approx([0.0, low + high, low + high, high])
    assert found[1].tolist() == pytest.approx([0.0, high, 0.0, 0.0])


def test_clip_higher_and_the_ratio_of_whole_replies() -> None:
    old = torch.zeros(1, 2)
    logprobs = torch.tensor([[math.log(1.25), 0.0]])
    mask, one = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2)
    assert clipped_surrogate(logprobs, old, one, mask, 0.2, 0.2).clipped.tolist() == [[True, False]]
    higher = clipped_surrogate(logprobs, old, one, mask, 0.2, 0.28)
    assert higher.loss.tolist()[0] == pytest.approx([-1.25, -1.0])
    # GSPO: the geometric mean of the tokens' ratios.
    whole = clipped_surrogate(logprobs, old, one, mask, 0.2, 0.2, "sequence")
    assert whole.loss.tolist()[0] == pytest.approx([-math.sqrt(1.25)] * 2)


def test_cut_replies_can_be_left_out() -> None:
    replies = [
        Candidate("0", "x", (5, 5), finish_reason="length"),
        Candidate("1", "x", (5,), finish_reason="stop"),
    ]
    made = drawn([1.0, 0.0], [2, 1], samples=2, replies=replies)
    counted = GRPO(samples=2, mask_truncated=True).credit(made)["counted"]
    assert counted.tolist() == [[False, False, False], [False, True, False]]
    assert GRPO(samples=2).credit(made)["counted"].sum() == 3
