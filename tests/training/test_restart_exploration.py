"""Restart and explore: where replies are cut, what a restart is worth, and what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from strategies.chain_of_action_thought import Action, ChainOfActionThought
from tests.training.rewarded import gained
from tests.training.tiny import begin, logged, recipe, write_rows
from training.data import problem_of, read_rows
from training.methods.restart_exploration import RestartExploration
from training.on_policy.restarts import REFLECTION, RestartRounds, cut_at_steps, reflection_bonus
from training.rows import Labelled
from training.run import Run

RLOO = {"type": "rloo", "samples": 8, "max_tokens": 4}


def begun(tiny: Path, directory: Path, **method: Any) -> Run:
    """Begin a run whose replies, of four characters, are rewarded for ending with a letter."""
    rows = write_rows(directory / "rows.jsonl", [{"prompt": letter} for letter in "abcdefgh"])
    said = recipe(
        tiny,
        {"type": "restart_exploration", "earlier": 2, **method},
        rows,
        training={"max_steps": 25, "batch_size": 64},
        rollouts={"backend": "model"},
        rewards=[{"verifier": "regex", "fields": {"pattern": "[a-zA-Z]$"}}],
    )
    return begin(said, directory)


def earlier(reply: str, label: float, problem: str = "p") -> Labelled:
    return Labelled.model_validate(
        {"prompt": "q", "problem": problem, "reply": reply, "label": label}
    )


def test_the_cue_is_the_mark_that_the_strategy_puts_in() -> None:
    marks = ChainOfActionThought(policy="model")
    assert RestartExploration().cue == "<|reflect|>" == marks._cue(Action.REFLECT)


def test_the_published_algorithm() -> None:
    algorithm = RestartExploration().algorithm.model_dump()
    assert (algorithm["type"], algorithm["kl"], algorithm["temperature"]) == ("ppo", 0.0, 0.6)
    with pytest.raises(ValidationError, match="'mixer' is none of ppo, grpo"):
        RestartExploration.model_validate({"algorithm": {"type": "mixer"}})


def test_replies_are_cut_behind_each_step() -> None:
    drawn = [earlier("1\n\n2", 1), earlier("x\n\n\n\ny\n\n", 0), earlier("z", 0, "other")]
    found = cut_at_steps(drawn, "\n\n", "<|reflect|>")
    cuts = {
        problem: [[(each.text, each.right) for each in side] for side in sides]
        for problem, sides in found.items()
    }
    assert cuts == {
        "p": [
            [("1\n\n<|reflect|>", True), ("1\n\n2\n\n<|reflect|>", True)],
            [("x\n\n<|reflect|>", False), ("x\n\n\n\ny\n\n<|reflect|>", False)],
        ],
        "other": [[("z\n\n<|reflect|>", False)]],
    }


@pytest.mark.parametrize(
    ("before", "after", "worth"),
    [(False, True, 0.5), (True, False, -0.5), (True, True, 0.0), (False, False, 0.0)],
)
def test_the_bonus_is_for_what_was_mended(before: bool, after: bool, worth: float) -> None:
    assert reflection_bonus(0.5, before=before, after=after) == worth


def test_what_was_given_is_not_trained(tiny: Path, tmp_path: Path) -> None:
    run = begun(tiny, tmp_path, algorithm=RLOO)
    restarts = cut_at_steps(
        [earlier("Wrong", label, problem_of(row)) for row in run.rows for label in (0, 1)],
        "\n\n",
        "<|reflect|>",
    )
    with run.rollouts(run.policy()) as rollouts, run.rewards(rollouts) as rewards:
        rounds = RestartRounds(
            run.recipe.method.algorithm,  # type: ignore[attr-defined]
            run.rows,
            run.encoder,
            rollouts,
            rewards,
            prompts=24,
            seed=0,
            restarts=restarts,
            share=0.5,
            bonus=0.25,
            threshold=0.5,
        )
        drawn = rounds.draw(0)
        places = [restart for place in rounds.places(0) if (restart := rounds.restart(place))]
    given = "Wrong\n\n<|reflect|>"
    assert 4 < len(places) < 20
    assert {restart.right for restart in places} == {True, False}
    assert sum(prefix > 0 for prefix in drawn.prefixes) == 8 * len(places)
    for row, (reply, prefix) in enumerate(zip(drawn.replies, drawn.prefixes, strict=True)):
        assert reply.text.startswith(given) == (prefix > 0)
        assert prefix in (0, len(given))
        masked = drawn.batch["input_ids"][row][drawn.batch["reply_mask"][row]]
        assert tuple(masked.tolist()) == reply.token_ids[prefix:]
    bonuses = {each.parts[REFLECTION].value for each in drawn.rewards}
    assert {0.25, -0.25} <= bonuses <= {0.25, 0.0, -0.25}
    for each in drawn.rewards:
        assert each.total == each.parts["regex"].value + each.parts[REFLECTION].value


@pytest.mark.parametrize("algorithm", [RLOO, {**RLOO, "type": "ppo", "epochs": 1, "kl": 0.0}])
def test_it_learns_from_the_beginning_and_from_the_middle(
    tiny: Path, tmp_path: Path, algorithm: dict[str, Any]
) -> None:
    run = begun(tiny, tmp_path, algorithm=algorithm)
    run.recipe.method.train(run)
    before, after = gained(run, "rewards/regex")
    assert after > before + 0.2
    assert max(logged(run, f"rewards/{REFLECTION}")) > 0
    kept = run.directory / "samples" / "0000.jsonl"
    assert len(read_rows([kept], Labelled).rows) <= 16
    written = kept.stat().st_mtime_ns
    (run.directory / "result.json").unlink()
    again = begin(run.recipe, tmp_path)
    again.recipe.method.train(again)
    assert again.result == run.result
    assert kept.stat().st_mtime_ns == written
