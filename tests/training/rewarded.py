"""Policy gradients on the tiny model: a task that is learnt in seconds, and rounds made by hand."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.training.tiny import begin, logged, recipe, write_rows
from training.encoding import padded
from training.on_policy.rounds import Round
from training.recipe import Recipe
from training.rewards import RewardSample
from training.rows import Prompted
from training.run import Run
from verifiers.types import Candidate, Score, TokenLogprob

QUESTION = Prompted.model_validate({"prompt": "q"})


def said(model: Path, directory: Path, method: Mapping[str, Any], **tables: Any) -> Recipe:
    """Say a run whose replies, of four characters, are rewarded for beginning with a letter."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = write_rows(
        directory / "prompts.jsonl",
        [{"prompt": letter} for letter in string.ascii_lowercase[:8]],
    )
    begins = {"type": "regex", "pattern": "^[a-zA-Z]"}
    table = {"type": begins["type"]}
    return recipe(
        model,
        {"max_tokens": 4, **method},
        tables.pop("rows", rows),
        **{
            "training": {"max_steps": 25, "batch_size": 64, **tables.pop("training", {})},
            "rollouts": {"backend": "model"},
            "rewards": [{"verifier": table, "fields": {"pattern": begins["pattern"]}}],
            **tables,
        },
    )


def trained(model: Path, directory: Path, method: Mapping[str, Any], **tables: Any) -> Run:
    """Train on the task; return the run."""
    recipe = said(model, directory, method, **tables)
    run = begin(recipe, directory)
    recipe.method.train(run)
    assert run.result is not None
    return run


def gained(run: Run, name: str = "reward", steps: int = 3) -> tuple[float, float]:
    """Return the mean of the first and the last steps."""
    told = logged(run, name)
    return sum(told[:steps]) / steps, sum(told[-steps:]) / steps


def drawn(
    rewards: Sequence[float],
    lengths: Sequence[int],
    *,
    samples: int,
    prompt: int = 2,
    columns: Mapping[str, Tensor] | None = None,
    **fields: Any,
) -> Round:
    """Make a round by hand: replies of so many tokens after a prompt of two."""
    mask = padded([[0] * prompt + [1] * length for length in lengths], 0).bool()
    replies = fields.pop(
        "replies",
        [
            Candidate(str(place), "x" * length, (5 + place,) * length, finish_reason="stop")
            for place, length in enumerate(lengths)
        ],
    )
    return Round(
        samples=samples,
        questions=(QUESTION,) * (len(rewards) // samples),
        replies=tuple(replies),
        rewards=tuple(reward(each) for each in rewards),
        prefixes=fields.pop("prefixes", (0,) * len(rewards)),
        greedy=tuple(reward(each) for each in fields.pop("greedy", ())),
        batch={
            "input_ids": mask.long() + 4,
            "attention_mask": padded([[1] * (prompt + length) for length in lengths], 0),
            "reply_mask": mask,
            "old_logprobs": torch.zeros(mask.shape[0], mask.shape[1] - 1),
            **(columns or {}),
        },
    )


def reward(total: float, steps: tuple[float, ...] = ()) -> RewardSample:
    """Make a reward by hand."""
    return RewardSample(total, {"hand": Score(total, steps)})


def tokens(*texts: str) -> tuple[TokenLogprob, ...]:
    """Make the tokens of a reply by hand."""
    return tuple(TokenLogprob(text, -1.0) for text in texts)
