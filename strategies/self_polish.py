"""Self-Polish: make the question better, not the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from strategies.base import Family, Strategy
from strategies.conversation import (
    MAX_PROMPT,
    fill,
    holds,
    newest_first,
    question_of,
    same_answer,
    with_question,
)
from strategies.session import Session
from verifiers.types import Candidate

POLISH = """\
Rewrite a new version of the question below that is easier to understand and to answer. Leave out \
what does not matter, put the conditions in order, and omit nothing useful, numbers and the \
wanted form of the answer above all. Do not answer it. Write only the new version.

Question: {question}"""


class SelfPolish(Strategy):
    """Let the model rewrite the question until two versions in a row get the same answer.

    The question is answered first as it stands, then as rewritten from its last version; the
    reply to the newest version is returned as soon as its answer equals the one before. Three
    rewritings at most, which is the default of the authors' code (`max_times` 4), as is the reply
    to the question as it was asked, where no two agreed (`otherwise`; there also `last` and
    `majority`). Only the user's last turn is rewritten; a rewriting that was cut off is not used.
    Zero-shot, where the paper's prompts show examples per task; and it decodes at the request's
    temperature, the paper greedily. Right for long, muddled questions.
    """

    type: Literal["self_polish"] = "self_polish"
    family: ClassVar[Family] = "sequential"
    paper: ClassVar[str] = (
        "Xi et al., Self-Polish: Enhance Reasoning via Problem Refinement, 2305.14497"
    )

    rounds: int = Field(3, ge=1, le=32, description="Most rewritings.")
    otherwise: Literal["original", "last", "majority"] = Field(
        "original", description="What is returned where no two answers in a row were equal."
    )
    polish: Annotated[str, holds("question")] = Field(
        POLISH, max_length=MAX_PROMPT, description="Asks for the next version; has {question}."
    )

    def samples(self, n: int) -> int:
        """An answer for each wanted; a question and its answer in each round."""
        return n * (1 + 2 * self.rounds)

    def choices(self, n: int) -> int:
        """Return n: the question is polished anew for each."""
        return n

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Answer the question; polish it for each answer by itself."""
        replies = await session.sample(session.n)
        parts = session.split(len(replies))
        return await session.side_by_side(map(self._settled, parts, replies))

    async def rank(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Order replies that did not settle, oldest first, as `otherwise` says."""
        if self.otherwise == "majority":
            return (await session.votes(candidates)).ranked
        if self.otherwise == "last":
            return newest_first(candidates)
        return sorted(candidates, key=lambda each: not each.done)

    async def _settled(self, session: Session, reply: Candidate) -> Candidate:
        messages = session.prompt.messages
        question, replies = question_of(messages), [reply]
        for _ in range(self.rounds):
            polisher = session.fork(with_question(messages, fill(self.polish, question=question)))
            (polished,) = await polisher.sample(1)
            if polished.finish_reason == "stop":
                question = polished.content.strip() or question
            fork = session.fork(with_question(messages, question), answers=True, formats=True)
            replies += await fork.sample(1)
            if await same_answer(session, *replies[-2:]):
                return replies[-1]
        return (await self.rank(session, replies))[0]
