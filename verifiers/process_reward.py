"""A process reward model on the engine: how likely each step of a reply is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import ClassVar, Literal, TypeAlias

from pydantic import Field

from verifiers.aggregation import Aggregation, aggregate
from verifiers.label_reader import UNREAD, LabelReader
from verifiers.steps import BLANK_LINE, prefixes, step_ends
from verifiers.turns import reply_so_far
from verifiers.types import Candidate, Capabilities, Continuation, Powers, Reply, Score, Task

Place: TypeAlias = tuple[str, Reply]
"""All that a step's verdict hangs on within a request: who asks after which prompt, the reply."""


class ProcessReward(LabelReader):
    """Score each step by p(good) / (p(good) + p(bad)) of the token after its mark.

    Lightman et al., 2305.20050; automatic labels and the mark ` ки` with `+` and `-`:
    Math-Shepherd, 2312.08935. Steps end at `separator`; a step that ends with the mark gets none.
    Each is one request of one token, and only new steps are asked about: replies that branch from
    one another share what they have in common, as they do in the engine's prefix cache.

    Without `keep_marks` a step is judged after the policy's own tokens and this one mark. With it,
    every earlier step is followed by its mark too, as Math-Shepherd's model was trained: then the
    reply is another text, which the cache knows from the steps before only.

    A reply is abstained on where a step's labels cannot be read or paid. We deviate: what exceeds
    `max_steps` counts as one last step.
    """

    type: Literal["process_reward"] = "process_reward"
    paper: ClassVar[str] = "Lightman et al., Let's Verify Step by Step, 2305.20050"

    separator: str = Field(BLANK_LINE, min_length=1, max_length=64, description="Ends a step.")
    mark: str = Field(BLANK_LINE, max_length=64, description="What the labels are read after.")
    keep_marks: bool = Field(False, description="Earlier steps keep their marks.")
    good: str = Field("+", min_length=1, description="Label of a right step, one token.")
    bad: str = Field("-", min_length=1, description="Label of a wrong step, one token.")
    aggregation: Aggregation = Field("last", description="How the steps make the score.")
    max_steps: int = Field(32, ge=1, le=256, description="Most steps of a reply.")

    @property
    def calls(self) -> int:
        """A question per step."""
        return self.max_steps

    @property
    def max_tokens(self) -> int:
        """A token per step."""
        return self.max_steps

    @property
    def step_calls(self) -> int:
        """Steps that were judged are known."""
        return 1

    @property
    def step_tokens(self) -> int:
        """A token."""
        return 1

    def unavailable(self, policy: Capabilities, asked: Capabilities) -> str | None:
        """A step is judged inside the reply."""
        if asked.continuation is Continuation.NONE:
            return "the engine cannot go on with a reply, so no step of it can be judged"
        return super().unavailable(policy, asked)

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Ask about every step that this request has not asked about, all at the same time."""
        mark_ids = () if self.engine else await powers.tokenize(self.mark)
        asker = _digest(self, task)
        marked: list[list[Place]] = [
            [(asker, reply) for reply in self.marked(each, mark_ids)] for each in candidates
        ]
        new = list(dict.fromkeys(place for places in marked for place in places))
        new = [place for place in new if place not in task.known]
        prompts = [self.adapted(reply_so_far(task, reply, self.engine)) for _, reply in new]
        chances = await self.read(prompts, powers, self.good, self.bad)
        found = zip(new, chances, strict=True)
        task.known.update((place, chance) for place, chance in found if not math.isnan(chance))
        return [
            self._score([task.known.get(place, UNREAD) for place in places]) for places in marked
        ]

    def _score(self, steps: Sequence[float]) -> Score:
        if not steps or any(map(math.isnan, steps)):
            return Score(0.0, abstained=True)
        return Score(aggregate(steps, self.aggregation), tuple(steps))

    def marked(self, candidate: Candidate, mark_ids: tuple[int, ...] = ()) -> list[Reply]:
        """Return the reply up to each step's mark: after these training puts the labels too."""
        ends = step_ends(candidate.text, self.separator, self.max_steps)
        if self.keep_marks:
            return self._all_marked(candidate.text, ends)
        if self.engine is not None:  # its tokens are others
            candidate = Candidate(candidate.id, candidate.text)
        return [self._with_mark(reply, mark_ids) for reply in prefixes(candidate, ends)]

    def _with_mark(self, reply: Reply, mark_ids: tuple[int, ...]) -> Reply:
        if self.mark and reply.text.endswith(self.mark):
            return reply
        ids = (*reply.token_ids, *mark_ids) if reply.token_ids else ()
        return Reply(reply.text + self.mark, ids)

    def _all_marked(self, text: str, ends: Sequence[int]) -> list[Reply]:
        """Put the mark between each step and its separator, once where they are the same."""
        between = self.mark if self.mark.endswith(self.separator) else self.mark + self.separator
        replies, said, start = [], "", 0
        for end in ends:
            said += text[start:end].removesuffix(self.separator)
            replies.append(Reply(said + self.mark))
            said, start = said + between, end
        return replies


def _digest(verifier: ProcessReward, task: Task) -> str:
    """Name verifier and prompt: a request may have several of both."""
    return blake2b(repr((verifier, task.prompt)).encode(), digest_size=16).hexdigest()
