"""The on-policy loop: its rounds, what it logs, resuming, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.rewarded import reward, said, trained
from tests.training.tiny import begin, logged
from training.encoding import Encoder
from training.methods.grpo import GRPO
from training.methods.rloo import LeaveOneOut
from training.methods.scst import SelfCritical
from training.models import load_tokenizer
from training.on_policy.method import PolicyGradient
from training.on_policy.rounds import Rounds, taken
from training.on_policy.trainer import without_dropout
from training.rewards import RewardSample
from training.rows import Prompted
from training.run import RunError
from verifiers.errors import BadRequest
from verifiers.manifest import read_manifest
from verifiers.types import Candidate, Prompt, Sampling

TOLD = ["reward", "reward_std", "rewards/regex", "accuracy", "reply_tokens", "cut"]
MEASURED = ["entropy", "kl", "engine_difference", "generation_seconds", "training_seconds"]


def test_what_is_logged_and_published(tiny: Path, tmp_path: Path) -> None:
    run = trained(
        tiny,
        tmp_path,
        {"type": "rloo", "samples": 4},
        training={"max_steps": 2, "batch_size": 8, "accumulate": 2},
        adapter={"type": "lora", "r": 4},
    )
    for name in (*TOLD, *MEASURED):
        assert len(logged(run, name)) == 2, name
    assert logged(run, "accuracy") == logged(run, "reward")
    assert all(0 < length <= 4 for length in logged(run, "reply_tokens"))
    # What draws is what is trained: the engine's log-probabilities are our own.
    assert max(logged(run, "engine_difference")) < 1e-4
    assert read_manifest(run.store.find(run.result.spec).path).kind == "lora"


@pytest.mark.parametrize(
    "method",
    [
        {"type": "rloo", "samples": 4},
        {"type": "ppo", "samples": 1, "epochs": 2, "steps": 2, "learning_rate": 1e-3},
        {"type": "grpo", "samples": 4, "updates": 2, "redraws": 1},
    ],
    ids=["rloo", "ppo", "grpo"],
)
def test_a_resumed_run_does_what_it_would_have_done(
    tiny: Path, tmp_path: Path, method: dict[str, object]
) -> None:
    """A state is saved every 4 steps at least, and only where a round ends."""
    training = {"max_steps": 12, "batch_size": 16, "save_steps": 3, "keep_states": 9}
    whole = trained(tiny, tmp_path / "whole", method, training=training)
    half = tmp_path / "half"
    shutil.copytree(whole.directory, half / "run")
    (half / "run" / "result.json").unlink()
    states = sorted(int(path.name.split("-")[1]) for path in (half / "run").glob("checkpoint-*"))
    for state in states[1:]:
        shutil.rmtree(half / "run" / f"checkpoint-{state}")
    (half / "run" / "log.jsonl").write_text("")
    (half / "prompts.jsonl").write_text((tmp_path / "whole" / "prompts.jsonl").read_text())
    said_again = whole.recipe
    run = begin(said_again, half)
    said_again.method.train(run)
    for name in ("reward", "entropy", "loss"):
        rest = logged(run, name)
        assert 0 < len(rest) < len(logged(whole, name))
        assert rest == pytest.approx(logged(whole, name)[-len(rest) :], rel=1e-4, abs=1e-6), name


def test_equal_runs_are_equal_and_other_seeds_are_not(tiny: Path, tmp_path: Path) -> None:
    def rewards(name: str, seed: int) -> list[float]:
        training = {"max_steps": 3, "batch_size": 16, "seed": seed}
        run = trained(tiny, tmp_path / name, {"type": "rloo", "samples": 4}, training=training)
        return logged(run, "entropy")

    assert rewards("a", 0) == rewards("b", 0) != rewards("c", 1)


def test_replies_must_make_whole_groups(tiny: Path, tmp_path: Path) -> None:
    recipe = said(tiny, tmp_path, {"type": "rloo", "samples": 3}, training={"batch_size": 8})
    with pytest.raises(RunError, match="= 8 replies: no multiple of `samples` = 3"):
        recipe.method.train(begin(recipe, tmp_path))


def test_rows_must_say_what_rewards_need(tiny: Path, tmp_path: Path) -> None:
    recipe = said(tiny, tmp_path, {"type": "rloo", "samples": 4}, rewards=[{"verifier": "math"}])
    with pytest.raises(BadRequest, match="reference"):
        recipe.method.train(begin(recipe, tmp_path))


def test_batches_are_no_wider_than_their_longest_row() -> None:
    columns = {
        "input_ids": torch.arange(10).view(2, 5),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
        "old_logprobs": torch.arange(8.0).view(2, 4),
        "reward": torch.tensor([1.0, 2.0]),
    }
    part = taken(columns, [0])
    assert part["input_ids"].tolist() == [[0, 1, 2]]
    assert part["old_logprobs"].tolist() == [[0.0, 1.0]]
    assert part["reward"].tolist() == [1.0]
    assert taken(columns, [1, 0])["old_logprobs"].shape == (2, 4)


def test_dropout_is_off() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    without_dropout(model)
    ones = torch.ones(1, 2)
    torch.testing.assert_close(model(ones), model[0](ones))


def test_epochs_are_counted_in_rounds(tiny: Path, tmp_path: Path) -> None:
    """8 prompts, 4 replies each, 16 replies a round: 2 rounds an epoch, 3 updates of each."""
    method = {"type": "ppo", "samples": 4, "epochs": 3, "learning_rate": 1e-4}
    run = trained(
        tiny, tmp_path, method, training={"max_steps": None, "epochs": 2, "batch_size": 16}
    )
    assert len(logged(run, "loss")) == 2 * 2 * 3
    assert len(logged(run, "reward")) == 2 * 2


class Fixed:
    """Rollouts of two replies: to the prompt `both` one of each kind, to others equal ones."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, n: int = 1, progress: object = None
    ) -> list[list[Candidate]]:
        self.seed = sampling.seed
        return [
            [
                Candidate(
                    f"{place}",
                    "a" if place == 0 and prompt.messages[0]["content"] == "both" else "-",
                    (40, 2),
                    finish_reason="stop",
                )
                for place in range(n)
            ]
            for prompt in prompts
        ]


class Letters:
    """Rewards of 1 for a letter."""

    logprobs = None

    def score(
        self, rows: Sequence[Prompted], replies: Sequence[Sequence[Candidate]]
    ) -> list[list[RewardSample]]:
        return [[reward(float(reply.text == "a")) for reply in group] for group in replies]


def _rounds(tiny: Path, method: PolicyGradient, rows: Sequence[str], **options: Any) -> Rounds:
    asked = [Prompted.model_validate({"prompt": each}) for each in rows]
    encoder = Encoder(load_tokenizer(tiny))
    drawing: Any = Fixed()
    judging: Any = Letters()
    return Rounds(method, asked, encoder, drawing, judging, **{"prompts": 2, "seed": 0, **options})


def test_prompts_whose_replies_are_alike_are_replaced(tiny: Path) -> None:
    rows = ["both", "same", "same"]
    plain = _rounds(tiny, GRPO(samples=2), rows)
    asked = [plain.draw(number).questions for number in range(3)]
    assert {each.prompt[0].content for pair in asked for each in pair} == {"both", "same"}
    redrawn = _rounds(tiny, GRPO(samples=2, redraws=30), rows)
    for number in range(3):
        made = redrawn.draw(number)
        assert [each.prompt[0].content for each in made.questions] == ["both", "both"]
        assert made.totals.tolist() == [[1.0, 0.0]] * 2


def test_every_epoch_has_every_row_once_over_all_processes(tiny: Path) -> None:
    rows = list("abcdef")
    method = LeaveOneOut(samples=2)
    processes = [_rounds(tiny, method, rows, prompts=1, process=(rank, 2)) for rank in range(2)]
    first, second = (
        [
            each.row(place)
            for number in numbers
            for each in processes
            for place in each.places(number)
        ]
        for numbers in (range(3), range(3, 6))
    )
    assert sorted(row.prompt[0].content for row in first) == rows
    assert sorted(row.prompt[0].content for row in second) == rows
    assert first != second


def test_a_round_in_its_columns(tiny: Path) -> None:
    made = _rounds(tiny, SelfCritical(samples=2), ["both", "same"]).draw(0)
    assert made.mask.sum(-1).tolist() == [2] * 4
    assert made.batch["input_ids"][made.batch["reply_mask"]].tolist() == [40, 2] * 4
    asked = [each.prompt[0].content for each in made.questions]
    # The greedy reply is a group of one: the first of `both` is the one that is right.
    assert [each.total for each in made.greedy] == [float(each == "both") for each in asked]


def test_rounds_and_processes_have_their_own_seeds(tiny: Path) -> None:
    seeds = set()
    for rank in range(2):
        rounds = _rounds(tiny, LeaveOneOut(samples=2), ["both", "same"], process=(rank, 2))
        for number in (0, 1):
            rounds.draw(number)
            seeds.add(rounds._rollouts.seed)  # type: ignore[attr-defined]
    assert len(seeds) == 4
