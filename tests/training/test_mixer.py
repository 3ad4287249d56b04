"""MIXER: cross-entropy on the first T − Δ tokens, REINFORCE on the rest, Δ annealed."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import torch

from tests.training.rewarded import drawn, gained, trained
from tests.training.tiny import begin, logged, recipe, write_rows
from training.losses.policy_gradient import mixed
from training.methods.mixer import Mixer


def _dialogues(path: Path) -> Path:
    letters = string.ascii_lowercase[:8]
    return write_rows(
        path,
        [
            {
                "messages": [
                    {"role": "user", "content": letter},
                    {"role": "assistant", "content": "abc"},
                ]
            }
            for letter in letters
        ],
    )


def test_it_imitates_and_then_is_rewarded(tiny: Path, tmp_path: Path) -> None:
    method = {"type": "mixer", "imitation_epochs": 8, "stage_epochs": 4, "delta": 2, "samples": 4}
    run = trained(
        tiny,
        tmp_path,
        method,
        rows=_dialogues(tmp_path / "rows.jsonl"),
        training={"max_steps": 24, "batch_size": 32},
    )
    # 8 prompts × 4 replies are a batch: a step is an epoch. The reply has 4 tokens, its end's too.
    shares = logged(run, "imitated")
    assert shares[:8] == [1.0] * 8
    assert shares[12] < 0.6
    assert shares[16:] == [0.0] * 8
    losses = logged(run, "cross_entropy")
    assert losses[7] < 0.7 * losses[0]
    # Untrained, a reply begins with a letter in half of all cases.
    assert sum(logged(run, "reward")[-4:]) / 4 > 0.85


def test_delta_grows() -> None:
    method = Mixer(imitation_epochs=2, stage_epochs=3, delta=2)
    assert [method.free_tokens(epoch) for epoch in range(9)] == [0, 0, 2, 2, 2, 4, 4, 4, 6]


def test_what_a_reply_begins_with(tiny: Path, tmp_path: Path) -> None:
    said = recipe(
        tiny,
        {"type": "mixer", "imitation_epochs": 1, "stage_epochs": 1, "delta": 2},
        _dialogues(tmp_path / "rows.jsonl"),
        rollouts={"backend": "model"},
        rewards=[{"verifier": "regex", "fields": {"pattern": "^a"}}],
    )
    run = begin(said, tmp_path)
    method, row = said.method, run.rows[0]
    assert isinstance(method, Mixer)
    texts = [run.tokenizer.decode(method.prefix(row, epoch, run.encoder)) for epoch in range(4)]
    assert texts == ["abc<|im_end|>", "ab", "", ""]
    question = method.question(row)
    assert question.reference == "abc"
    assert [message.role for message in question.prompt] == ["user"]


def test_the_loss_by_hand() -> None:
    mask = torch.tensor([[False, True, True, True], [False, True, True, False]])
    made = drawn([1.0, 0.0], [3, 2], samples=2, prefixes=(2, 1))
    credited = Mixer(samples=2).credit(made)
    assert credited["imitated"].tolist() == [
        [False, True, True, False],
        [False, True, False, False],
    ]
    assert credited["advantages"].tolist() == [1.0, -1.0]
    logprobs = torch.tensor([[0.0, -1.0, -2.0, -4.0], [0.0, -1.0, -8.0, 0.0]])
    advantages = credited["advantages"][:, None].expand_as(logprobs)
    losses = mixed(logprobs, advantages, credited["imitated"], mask)
    # 1 + 2 as given, 4 · 1 as drawn; 1 as given, 8 · −1 as drawn.
    assert losses.tolist() == pytest.approx([1 + 2 + 4, 1 - 8])


def test_with_nothing_given_it_is_reinforce(tiny: Path, tmp_path: Path) -> None:
    method = {"type": "mixer", "imitation_epochs": 0, "stage_epochs": 1, "delta": 9, "samples": 8}
    run = trained(tiny, tmp_path, method, rows=_dialogues(tmp_path / "rows.jsonl"))
    before, after = gained(run)
    assert after > before + 0.3
