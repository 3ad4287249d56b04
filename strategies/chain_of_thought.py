"""Chain of thought: think before answering."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from strategies.base import Family, Strategy
from strategies.conversation import MAX_PROMPT, asked, question_of, replied, with_question
from strategies.session import Session
from verifiers.types import Candidate, JSONObject

STEP_BY_STEP = "Let's think step by step."
EXTRACTION = "Therefore, the answer is"


class Example(BaseModel):
    """A question that is answered as replies should be, thoughts included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = Field(min_length=1, max_length=MAX_PROMPT, description="What is asked.")
    answer: str = Field(
        min_length=1, max_length=MAX_PROMPT, description="The whole reply, thoughts included."
    )


class ChainOfThought(Strategy):
    """Ask the model to think step by step, or show it by examples how to.

    Zero-shot, `trigger` is added to the user's last turn; few-shot (2201.11903, 8 examples),
    `examples` are earlier turns, after the system message, and take the trigger's place. The
    reply streams. With `extract`, a second reply, to `extraction`, is the answer, and the first
    is not shown; so it is done by default where a grammar rules the answer, which would leave
    no room to think. A budget without a second call leaves the thoughts. Right for small models
    that do not think by themselves. The papers decode greedily, here the request's temperature
    holds; zero-shot, the paper lets the reply itself begin with the trigger.
    """

    type: Literal["chain_of_thought"] = "chain_of_thought"
    family: ClassVar[Family] = "sequential"
    paper: ClassVar[str] = (
        "Kojima et al., Large Language Models are Zero-Shot Reasoners, 2205.11916"
    )

    examples: tuple[Example, ...] = Field((), max_length=64, description="Shown before.")
    trigger: str = Field(STEP_BY_STEP, max_length=MAX_PROMPT, description="Without examples.")
    extract: bool | None = Field(
        None, description="Answer in a second reply; default: where a format or a tool is forced."
    )
    extraction: str = Field(EXTRACTION, max_length=MAX_PROMPT, description="Asks for the answer.")

    def samples(self, n: int) -> int:
        """One for each answer, or two."""
        return n if self.extract is False else 2 * n

    def choices(self, n: int) -> int:
        """Return n: each answer has a chain of its own."""
        return n

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Think aloud, or think and then say what came of it."""
        messages = self._posed(session.prompt.messages)
        if not (session.prompt.constrained if self.extract is None else self.extract):
            fork = session.fork(messages, answers=True, formats=True)
            return await session.conclude(fork, session.n)
        with session.saving(leave=1):
            thinking = session.unconstrained().fork(messages, answers=True)
            drafts = await thinking.sample(session.n)
        return await session.write_down(drafts, self.extraction)

    def _posed(self, messages: Sequence[JSONObject]) -> list[JSONObject]:
        if not self.examples:
            return with_question(messages, f"{question_of(messages)}\n\n{self.trigger}")
        turns = [t for each in self.examples for t in (asked(each.question), replied(each.answer))]
        first = list(takewhile(lambda message: message["role"] == "system", messages))
        return [*first, *turns, *messages[len(first) :]]
