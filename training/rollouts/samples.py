"""Replies drawn for every prompt, judged, and kept on the disk, for methods that imitate some.

They are `labels` rows in DIRECTORY/samples/0000.jsonl for the first prompts, 0001.jsonl for the
next, and so on; a file that is there is not drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from training.data import problem_of, read_rows, write_rows
from training.rewards import Rewards, prompt_of
from training.rollouts.base import Rollouts, policy_sampling
from training.rows import Labelled, Prompted
from training.run import Run
from verifiers.types import Candidate, sample_seed

BLOCK = 128
"""Prompts drawn and written at a time: what a killed run draws again."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How replies are drawn, and which are right."""

    samples: int
    """Of each prompt."""
    max_tokens: int
    temperature: float
    threshold: float = 0.5
    """The least reward of a right reply; without rewards every whole reply is right."""


class Sampler:
    """Draws replies by a run's rollouts, which are not started before something must be drawn."""

    def __init__(
        self, run: Run, drawing: Drawing, open_rollouts: Callable[[ExitStack], Rollouts]
    ) -> None:
        self._run, self._drawing, self._open = run, drawing, open_rollouts
        self._stack = ExitStack()
        self._opened: tuple[Rollouts, Rewards | None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def draw(
        self,
        directory: Path,
        rows: Sequence[Prompted],
        *,
        asked: Sequence[Prompted] | None = None,
        model: Any = None,
        step: int = 0,
    ) -> list[Labelled]:
        """Return all replies to the rows, the blank ones left out; drawn once, then read.

        Of several processes the first must have drawn before the others come here.

        Args:
            directory: where they are kept.
            rows: whose prompts the replies are told to answer.
            asked: what is really asked in their place; None: the same.
            model: the weights to draw with; None: those that the rollouts begin with.
            step: names these weights, and seeds what is drawn.
        """
        found: list[Labelled] = []
        shown = rows if asked is None else asked
        place = directory.relative_to(self._run.directory).as_posix()
        for number, start in enumerate(range(0, len(rows), BLOCK)):
            path = directory / "samples" / f"{number:04}.jsonl"
            block = slice(start, start + BLOCK)
            if not path.exists():
                seed = sample_seed(self._run.recipe.training.seed, f"{place}/{number}")
                write_rows(path, self._judged(rows[block], shown[block], seed, model, step))
            if path.stat().st_size:
                found += read_rows([path], Labelled, strict=True).rows
        return found

    def _judged(
        self, rows: Sequence[Prompted], asked: Sequence[Prompted], seed: int, model: Any, step: int
    ) -> list[Labelled]:
        drawing = self._drawing
        rollouts, rewards = self._rollouts()
        if model is not None and rollouts.step != step:
            rollouts.refresh(model, step)
        sampling = policy_sampling(
            drawing.max_tokens,
            drawing.temperature,
            seed=seed,
            logprobs=None if rewards is None else rewards.logprobs,
        )
        groups = rollouts.generate(list(map(prompt_of, asked)), sampling, drawing.samples)
        totals = self._totals(rewards, rows, groups)
        return [
            _labelled(row, reply, total, right=whole(reply) and total >= drawing.threshold)
            for row, group, of_group in zip(rows, groups, totals, strict=True)
            for reply, total in zip(group, of_group, strict=True)
            if reply.content.strip()
        ]

    def _totals(
        self,
        rewards: Rewards | None,
        rows: Sequence[Prompted],
        groups: Sequence[Sequence[Candidate]],
    ) -> list[list[float]]:
        if rewards is None:
            return [[self._drawing.threshold] * len(group) for group in groups]
        return [[each.total for each in group] for group in rewards.score(rows, groups)]

    def _rollouts(self) -> tuple[Rollouts, Rewards | None]:
        if self._opened is None:
            rollouts = self._open(self._stack)
            wanted = self._run.recipe.rewards
            rewards = self._stack.enter_context(self._run.rewards(rollouts)) if wanted else None
            if rewards is not None:
                rewards.check(self._run.rows)
            self._opened = (rollouts, rewards)
        return self._opened


def whole(reply: Candidate) -> bool:
    """Whether a reply ended by itself: one that was cut is nothing to imitate."""
    return reply.finish_reason == "stop"


def _labelled(row: Prompted, reply: Candidate, total: float, *, right: bool) -> Labelled:
    return Labelled(
        prompt=row.prompt,
        reference=row.reference,
        fields=row.fields,
        problem=problem_of(row),
        reply=reply.content,
        label=float(right),
        source={**row.source, "reward": total, "finish": reply.finish_reason},
    )
