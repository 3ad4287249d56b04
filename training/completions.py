"""Finish replies by a model, and judge the ends by a reward: what step labels are made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from training.labels import Beginning, Verdicts
from training.rewards import Rewards, prompt_of
from training.rollouts.base import Rollouts
from verifiers.types import Candidate, Prompt, Reply, Sampling

RIGHT = 0.5
"""From this reward on a completed reply is right."""


class RolloutCompleter:
    """Implements `training.labels.Completer`. A beginning that is a whole reply goes on too.

    Each call draws with another seed, so that a beginning asked about twice is completed anew.
    """

    def __init__(self, rollouts: Rollouts, rewards: Rewards, sampling: Sampling) -> None:
        self._rollouts, self._rewards, self._sampling = rollouts, rewards, sampling
        self._calls = 0

    def __call__(self, beginnings: Sequence[Beginning], n: int) -> Verdicts:
        """Finish each beginning n times, all at the same time."""
        prompts = [_begun(each) for each in beginnings]
        seed = None if self._sampling.seed is None else self._sampling.seed + self._calls
        self._calls += 1
        ends = self._rollouts.generate(prompts, replace(self._sampling, seed=seed), n)
        replies = [
            [_whole(each.text, end) for end in group]
            for each, group in zip(beginnings, ends, strict=True)
        ]
        rewards = self._rewards.score([each.row for each in beginnings], replies)
        return [[each.total >= RIGHT for each in group] for group in rewards]


def _begun(beginning: Beginning) -> Prompt:
    return replace(prompt_of(beginning.row), reply=Reply(beginning.text))


def _whole(beginning: str, end: Candidate) -> Candidate:
    """Put a beginning before what was drawn; the parsed message was that of the end alone."""
    return replace(end, text=beginning + end.text, token_ids=(), message=None)
