"""A language model as the judge of each reply by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from verifiers.judging import ABSTAINED, QUOTED, ModelJudge, Question, conversation, place
from verifiers.turns import question_after, spoken
from verifiers.types import Candidate, Powers, Prompt, Score, Task

GRADES = 9
"""The best grade; the worst is 0, so that every grade is one digit and one token."""
DIGITS = [str(grade) for grade in range(GRADES + 1)]

INSTRUCTION = f"""\
You grade an assistant's reply by one criterion. Grades go from 0 (wrong or useless) to 9 \
(certainly right).{QUOTED}"""

QUESTION = """\
Conversation:
{conversation}

Reply:
{reply}

Criterion: {criterion}
{asked}"""

GRADE = f"Grade (one digit from 0 to {GRADES}):"

RATIONALE = """\
First say in a few sentences what is right and what is wrong with the reply. Give no grade yet."""


class Judge(ModelJudge):
    """Ask a model for a grade, and take the expectation of the grade over its token probabilities.

    One token per candidate and criterion: Σ p(d)·d / Σ p(d) / 9 over the digits among the 20
    likeliest tokens, a number in [0, 1]; the score is the weighted mean over the criteria. The
    expectation is finer than the grade that greedy decoding would print and needs no parsing
    (G-Eval, 2303.16634, samples 20 times to estimate it). Criteria and repeats are two of the
    axes of LLM-as-a-Verifier (2607.05391); of its third, finer grades than 10, we take none, as
    more would not be one token each everywhere.

    With `rationale_tokens` the model first says what it thinks of the reply and grades after that.
    `repeats` is the number of rationales, sampled at `temperature`, whose grades are averaged:
    they are all that varies, as the expectation is the same however often it is asked for. The
    papers repeat the sampled grade instead.

    The candidate comes first and the criterion last, so that its questions share their prefix. A
    candidate is abstained on where for one of the criteria no grade can be read, or paid. What a
    judge as small as the policy is worth, docs/verifiers.md tells.
    """

    type: Literal["judge"] = "judge"
    paper: ClassVar[str] = "Liu et al., G-Eval: NLG Evaluation using GPT-4, 2303.16634"

    rationale_tokens: int = Field(0, ge=0, le=4096, description="Of reasons before each grade.")
    repeats: int = Field(1, ge=1, le=64, description="Rationales for each criterion.")
    temperature: float = Field(0.7, gt=0, le=2, description="Of the rationales.")

    @model_validator(mode="after")
    def _repeats_vary(self) -> Self:
        if self.repeats > 1 and not self.rationale_tokens:
            raise ValueError("repeats need rationale_tokens: without, every repeat is the same")
        return self

    @property
    def partial(self) -> bool:
        """Any reply so far can be judged."""
        return True

    @property
    def calls(self) -> int:
        """A grade for each criterion, or for each of its rationales, which are calls too."""
        return self.questions * self.repeats * (2 if self.rationale_tokens else 1)

    @property
    def max_tokens(self) -> int:
        """A digit after each rationale."""
        return self.questions * self.repeats * (self.rationale_tokens + 1)

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Ask about all at the same time.

        The seeds of rationales go by the order of asking, so that is then not the order of arrival.
        """
        criteria = self.weighted_criteria(task)
        order = list(range(len(candidates)))
        if self.rationale_tokens:
            order.sort(key=lambda at: _place(candidates[at]))
        ordered = [candidates[at] for at in order]
        contents = self._contents(task, ordered, [criterion for criterion, _ in criteria])
        prompts = [self.prompt(task, INSTRUCTION, content) for content in contents]
        grades = iter(await self._grades(prompts, powers))
        scores = {at: _weighted([(next(grades), weight) for _, weight in criteria]) for at in order}
        return [scores[at] for at in range(len(candidates))]

    def _contents(
        self, task: Task, candidates: Sequence[Candidate], criteria: Sequence[str]
    ) -> list[str]:
        """Write a question for each candidate and criterion: what most questions share is first."""
        before = conversation(task)
        asked = RATIONALE if self.rationale_tokens else GRADE
        return [
            QUESTION.format(conversation=before, reply=reply, criterion=criterion, asked=asked)
            for each in candidates
            for reply in self.quote([spoken(each)])
            for criterion in criteria
        ]

    async def _grades(self, questions: Sequence[Prompt], powers: Powers) -> list[list[float]]:
        """Return for each question the grades, in [0, 1], that could be read."""
        asked = [[each] for each in questions]
        if self.rationale_tokens:
            asked = await self._after_rationales(questions, powers)
        flat = [Question(prompt, DIGITS) for prompts in asked for prompt in prompts]
        answers = iter(await self.shares(flat, powers))
        return [
            [_expectation(shares) for _ in prompts if (shares := next(answers))]
            for prompts in asked
        ]

    async def _after_rationales(
        self, questions: Sequence[Prompt], powers: Powers
    ) -> list[list[Prompt]]:
        """Let each question be reasoned about, and ask for a grade after each rationale."""
        rationales = await powers.ask(
            questions,
            self.repeats,
            engine=self.engine,
            max_tokens=self.rationale_tokens,
            temperature=self.temperature,
        )
        # A rationale is its own engine's words, whichever that is: its token ids hold there.
        return [
            [question_after(Task(question), each, GRADE) for each in drawn]
            for question, drawn in zip(questions, rationales, strict=True)
        ]


def _expectation(shares: Sequence[float]) -> float:
    return math.fsum(grade * share for grade, share in enumerate(shares)) / GRADES


def _weighted(criteria: Sequence[tuple[Sequence[float], float]]) -> Score:
    """Average over the repeats, then over the criteria: all of them, or scores do not compare."""
    if not all(grades for grades, _ in criteria):
        return ABSTAINED
    means = [math.fsum(grades) / len(grades) * weight for grades, weight in criteria]
    return Score(math.fsum(means))


def _place(candidate: Candidate) -> tuple[bytes, str]:
    return place(spoken(candidate)), candidate.id
