"""Our rollouts and rewards in TRL's GRPOTrainer (1.16)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from training.on_policy.rounds import judged
from training.rewards import Rewards
from training.rollouts.base import RolloutError, Rollouts
from training.rows import Prompted
from verifiers.types import Candidate, Prompt, Sampling, sample_seed

RolloutFunction: TypeAlias = Callable[[list[Any], Any], dict[str, Any]]
RewardFunction: TypeAlias = Callable[..., list[float]]

ROW = "row"
"""The data set's column that holds the place of a prompt in the rows."""
CANDIDATE = "candidate"
"""Under which the trainer carries replies from the rollouts to the rewards."""


def rollout_function(rollouts: Rollouts, sampling: Sampling) -> RolloutFunction:
    """Return what `GRPOTrainer(rollout_func=…)` takes: it refreshes when a step was taken.

    The trainer gives each prompt as often as it wants replies, side by side: they are drawn as one
    group, so that they share the prompt's prefix. Their seeds go by `sampling.seed` and the step.
    """

    def draw(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        step = trainer.state.global_step
        if rollouts.step != step:
            rollouts.refresh(trainer.accelerator.unwrap_model(trainer.model), step)
        groups = [(key, len(list(same))) for key, same in itertools.groupby(prompts)]
        replies = _drawn(rollouts, groups, _seeded(sampling, step))
        if not all(each.token_ids for each in replies):
            raise RolloutError("the rollouts' engine gives no token ids: GRPO needs them")
        ids = trainer.processing_class.apply_chat_template(
            [messages for messages, _ in groups],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            chat_template=trainer.chat_template,
            **trainer.chat_template_kwargs,
        )
        return {
            "prompt_ids": [
                list(each) for each, (_, n) in zip(ids, groups, strict=True) for _ in range(n)
            ],
            "completion_ids": [list(each.token_ids) for each in replies],
            "logprobs": [[entry.logprob for entry in each.logprobs] for each in replies],
            CANDIDATE: replies,
        }

    return draw


def reward_function(
    rewards: Rewards,
    rows: Sequence[Prompted],
    log: Callable[[Mapping[str, float]], None] | None = None,
) -> RewardFunction:
    """Return what `GRPOTrainer(reward_funcs=…)` takes; the data set's column `row` finds the row.

    `log` is told the mean of each reward's part, abstentions as 0, and `accuracy` by the first.
    """

    def reward(*, row: list[int], candidate: list[Candidate], **_: Any) -> list[float]:
        pairs = zip(row, candidate, strict=True)
        groups = [
            (rows[place], [each for _, each in same])
            for place, same in itertools.groupby(pairs, key=lambda pair: pair[0])
        ]
        scored = rewards.score([row for row, _ in groups], [drawn for _, drawn in groups])
        samples = [sample for group in scored for sample in group]
        if log is not None:
            log(judged(samples))
        return [each.total for each in samples]

    return reward


def _drawn(
    rollouts: Rollouts, groups: Sequence[tuple[Any, int]], sampling: Sampling
) -> list[Candidate]:
    """Draw groups of n replies each, those of equal n in one go; return the replies in order."""
    drawn: dict[int, list[Candidate]] = {}
    for n in dict.fromkeys(n for _, n in groups):
        places = [at for at, (_, wanted) in enumerate(groups) if wanted == n]
        prompts = [Prompt(tuple(groups[at][0])) for at in places]
        drawn.update(zip(places, rollouts.generate(prompts, sampling, n), strict=True))
    return [each for at in range(len(groups)) for each in drawn[at]]


def _seeded(sampling: Sampling, step: int) -> Sampling:
    seed = None if sampling.seed is None else sample_seed(sampling.seed, f"step {step}")
    return replace(sampling, logprobs=sampling.logprobs or 0, seed=seed)
