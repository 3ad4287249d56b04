"""Self-Refine: criticise the reply, write it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from strategies.base import Family, Strategy
from strategies.conversation import (
    MAX_PROMPT,
    asked,
    fill,
    holds,
    newest_first,
    said,
    same_answer,
)
from strategies.session import Session
from verifiers.types import Candidate

FEEDBACK = """\
Check your reply above step by step, against what was asked. Name each error and say how to mend \
it. Do not write the reply again. If there is nothing to mend, say only: {stop_phrase}"""

REFINE = """\
Write the whole reply again with everything mended that you have named. Write only the reply, in \
the form that was asked for, without a word about the earlier one."""


class SelfRefine(Strategy):
    """Let the model criticise its own reply and refine it until nothing is left to mend.

    Generate, feedback, refine, for at most `rounds`, temperature 0.7, all from one model; the
    refiner sees all earlier versions and feedback (the paper's equation 4), so each prompt is
    the beginning of the next and found in the prefix cache. It ends when the feedback contains
    `stop_phrase` (the case does not matter, as in the authors' code), and, a deviation, when a
    refinement answers what the version before it did. The newest finished version is returned,
    without a verifier, as in the paper. The prompts are zero-shot and say nothing of the task,
    where the paper has few-shot ones per task. Models that cannot tell right from wrong mend
    what was right: small ones often lose by it.
    """

    type: Literal["self_refine"] = "self_refine"
    family: ClassVar[Family] = "sequential"
    paper: ClassVar[str] = (
        "Madaan et al., Self-Refine: Iterative Refinement with Self-Feedback, 2303.17651"
    )

    rounds: int = Field(4, ge=1, le=32, description="Most refinements.")
    temperature: float | None = Field(
        0.7, gt=0, le=2, description="Null: the request's if above 0, else 0.8."
    )
    stop_phrase: str = Field(
        "it is correct", min_length=1, max_length=200, description="In feedback: no more to mend."
    )
    feedback: Annotated[str, holds("stop_phrase")] = Field(
        FEEDBACK, max_length=MAX_PROMPT, description="Asks for criticism; has {stop_phrase}."
    )
    refine: str = Field(
        REFINE, min_length=1, max_length=MAX_PROMPT, description="Asks for the next version."
    )

    def samples(self, n: int) -> int:
        """A draft for each answer; feedback and a new version in each round."""
        return n * (1 + 2 * self.rounds)

    def choices(self, n: int) -> int:
        """Return n: each answer is refined by itself."""
        return n

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Draft; refine each draft to its end."""
        drafts = await session.sample(session.n, temperature=self.temperature)
        parts = session.split(len(drafts))
        return await session.side_by_side(map(self._refined, parts, drafts))

    async def rank(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:  # noqa: ARG002
        """The newest finished version comes first."""
        return newest_first(candidates)

    async def _refined(self, session: Session, draft: Candidate) -> Candidate:
        versions = [draft]
        messages = list(session.prompt.messages)
        check = asked(fill(self.feedback, stop_phrase=self.stop_phrase))
        for _ in range(self.rounds):
            messages += [said(versions[-1]), check]
            critic = session.fork(messages)
            (feedback,) = await critic.sample(1, temperature=self.temperature)
            if self.stop_phrase.lower() in feedback.content.lower():
                break
            messages += [said(feedback), asked(self.refine)]
            author = session.fork(messages, answers=True, formats=True)
            versions += await author.sample(1, temperature=self.temperature)
            if await same_answer(session, *versions[-2:]):
                break
        return newest_first(versions)[0]
