"""Rounds that restart from the middle of earlier replies, to have them reflected upon."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from training.data import problem_of
from training.encoding import Encoded
from training.on_policy.rounds import Rounds
from training.rewards import RewardSample
from training.rows import Labelled, Prompted
from verifiers.steps import step_ends
from verifiers.types import Candidate, Score

REFLECTION = "reflection"
"""What the bonus is called in logs, among the rewards."""


@dataclass(frozen=True, slots=True)
class Restart:
    """The beginning of an earlier reply."""

    text: str
    """What replies are made to begin with: whole steps, and the cue to reflect."""
    right: bool
    """Whether the whole reply was."""


Restarts: TypeAlias = Mapping[str, Sequence[Sequence[Restart]]]
"""For each problem those of right replies and those of wrong ones; neither is empty."""


def cut_at_steps(replies: Iterable[Labelled], step_mark: str, cue: str) -> Restarts:
    """Cut replies behind each of their steps, the last one too, and put the cue there.

    A step ends with `step_mark`, as strategies put cues behind it.
    """
    found: dict[str, dict[bool, list[Restart]]] = defaultdict(lambda: defaultdict(list))
    for row in replies:
        right = row.label == 1
        for end in step_ends(row.reply, step_mark):
            text = row.reply[:end].removesuffix(step_mark) + step_mark + cue
            found[problem_of(row)][right].append(Restart(text, right))
    return {problem: list(sides.values()) for problem, sides in found.items()}


def reflection_bonus(scale: float, *, before: bool, after: bool) -> float:
    """Return what a restart is worth beside its reward (Satori, 2502.02508).

    A wrong beginning that is mended is rewarded; a right one that is spoilt is punished.
    """
    if before == after:
        return 0.0
    return scale if after else -scale


class RestartRounds(Rounds):
    """Rounds of which a share of the prompts, by chance, is a restart.

    Of a problem that has both, right and wrong replies are restarted from equally often. What was
    given is not trained: it is part of the prompt. All replies to a prompt share one restart.
    """

    def __init__(
        self,
        *parts: Any,
        restarts: Restarts,
        share: float,
        bonus: float,
        threshold: float,
        **options: Any,
    ) -> None:
        """`parts` and `options` are those of `Rounds`."""
        super().__init__(*parts, **options)
        self._restarts, self._share = restarts, share
        self._bonus, self._threshold = bonus, threshold

    def restart(self, place: int) -> Restart | None:
        """Return what a place restarts from; None: it begins at the beginning."""
        chance = random.Random(f"{self._seed}/restart/{place}")
        sides = self._restarts.get(problem_of(self.row(place)), ())
        if chance.random() >= self._share or not sides:
            return None
        return chance.choice(chance.choice(sides))

    def prefix(self, place: int) -> tuple[int, ...]:
        """Return the restart's ids."""
        restart = self.restart(place)
        return super().prefix(place) if restart is None else self._encoder.text(restart.text)

    def encoded(self, question: Prompted, reply: Candidate, begun: int) -> Encoded:
        """Encode a reply; what it was made to begin with is not trained."""
        whole = super().encoded(question, reply, begun)
        start = whole.start + begun
        return Encoded(whole.ids, (False,) * start + whole.mask[start:])

    def scored(
        self,
        places: Sequence[int],
        questions: Sequence[Prompted],
        replies: Sequence[Sequence[Candidate]],
    ) -> list[list[RewardSample]]:
        """Add the bonus, which is 0 without a restart."""
        groups = super().scored(places, questions, replies)
        return [
            [self._with_bonus(sample, self.restart(place)) for sample in group]
            for place, group in zip(places, groups, strict=True)
        ]

    def _with_bonus(self, sample: RewardSample, restart: Restart | None) -> RewardSample:
        after = sample.total >= self._threshold
        before = after if restart is None else restart.right
        bonus = reflection_bonus(self._bonus, before=before, after=after)
        parts = {**sample.parts, REFLECTION: Score(bonus)}
        return replace(sample, total=sample.total + bonus, parts=parts)
