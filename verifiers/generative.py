"""A generative verifier: the probability that a model says Yes after a reply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import ClassVar, Literal

from pydantic import Field

from verifiers.base import FieldsClass, RequestFields
from verifiers.label_reader import LabelReader
from verifiers.turns import question_after
from verifiers.types import (
    Candidate,
    Capabilities,
    Continuation,
    Powers,
    Prompt,
    Reply,
    Score,
    Task,
)

QUESTION = "Is the reply above correct?"
QUESTION_SO_FAR = "The reply above is not finished. Is it correct so far?"
REFERENCE = "The correct final answer is: {reference}"
ONE_WORD = "Answer with one word, Yes or No."
VERIFY = "Verify it step by step."
VERDICT = "\n\nIs it correct (Yes or No)?"


class GenerativeFields(RequestFields):
    """What a request may tell it."""

    reference: str | None = Field(
        None, min_length=1, max_length=10_000, description="The right answer, to compare with."
    )


class Generative(LabelReader):
    """Ask after a reply whether it is correct, and take p(Yes) / (p(Yes) + p(No)).

    GenRM, 2408.15240. Plain: one token per reply. The question follows the reply's own tokens, so
    on the policy's engine prompt and reply are found in the prefix cache. With `rationale_tokens`
    it is GenRM-CoT: the model first writes `votes` verifications, the verdict is read after each,
    and the score is the mean of those that can be read. Where none can be, it abstains.

    A model that was not trained for it (`adapter`) says Yes too readily; what a small one says is
    worth little.
    """

    type: Literal["generative"] = "generative"
    paper: ClassVar[str] = "Zhang et al., Generative Verifiers, 2408.15240"
    Fields: ClassVar[FieldsClass] = GenerativeFields

    question: str = Field(QUESTION, description="Asked after a reply that has ended.")
    question_so_far: str = Field(QUESTION_SO_FAR, description="Asked after one that has not.")
    instruction: str = Field(ONE_WORD, description="Said after the question: how to answer.")
    yes: str = Field("Yes", min_length=1, description="Label of a correct reply, one token.")
    no: str = Field("No", min_length=1, description="Label of a wrong one, one token.")
    rationale_tokens: int = Field(
        0, ge=0, le=8192, description="Most tokens of a verification; 0: none is written."
    )
    votes: int = Field(1, ge=1, le=64, description="Verifications of each reply.")
    temperature: float = Field(0.7, ge=0, le=2, description="That verifications are drawn with.")
    rationale_instruction: str = Field(VERIFY, description="`instruction` for verifications.")
    verdict: str = Field(VERDICT, description="Put after a verification, before the label.")

    @property
    def calls(self) -> int:
        """A question per reply, or two per verification."""
        return 2 * self.votes if self.rationale_tokens else 1

    @property
    def max_tokens(self) -> int:
        """A token per verdict, and the verifications."""
        return self.votes * (self.rationale_tokens + 1) if self.rationale_tokens else 1

    def unavailable(self, policy: Capabilities, asked: Capabilities) -> str | None:
        """A verdict goes on with its verification."""
        if self.rationale_tokens and asked.continuation is Continuation.NONE:
            return "the engine cannot go on with a verification, to give its verdict"
        return super().unavailable(policy, asked)

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Ask about all candidates at the same time."""
        questions = [self.asked_after(task, each) for each in candidates]
        if not self.rationale_tokens:
            chances = await self.read(questions, powers, self.yes, self.no)
            return [_score([chance]) for chance in chances]
        verified = await powers.ask(
            questions,
            self.votes,
            engine=self.engine,
            max_tokens=self.rationale_tokens,
            temperature=self.temperature,
        )
        verdicts = [
            replace(question, reply=Reply(rationale.text + self.verdict))
            for question, rationales in zip(questions, verified, strict=True)
            for rationale in rationales
        ]
        read = iter(await self.read(verdicts, powers, self.yes, self.no))
        return [_score([next(read) for _ in rationales]) for rationales in verified]

    def asked_after(self, task: Task, candidate: Candidate) -> Prompt:
        """Return what is asked about a reply: training asks the same."""
        lines = [self.question if candidate.done else self.question_so_far]
        if reference := task.fields.get("reference"):
            lines.append(REFERENCE.format(reference=reference))
        lines.append(self.rationale_instruction if self.rationale_tokens else self.instruction)
        question = "\n".join(line for line in lines if line)
        return self.adapted(question_after(task, candidate, question, self.engine))


def _score(chances: Sequence[float]) -> Score:
    """Average the verdicts that could be read."""
    readable = [chance for chance in chances if not math.isnan(chance)]
    return Score(fmean(readable)) if readable else Score(0.0, abstained=True)
