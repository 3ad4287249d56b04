"""Universal self-consistency: the model says itself which of its replies agrees most."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import Parallel
from strategies.conversation import MAX_PROMPT, asked, replied, said
from strategies.session import Session
from verifiers.types import Candidate

QUESTION = """\
Above are several responses to the same request. Evaluate them, and select the most consistent \
response based on majority consensus. Start your answer with "The most consistent response is \
Response X", where X is its number."""

_VERDICT = re.compile(
    r"most consistent response is\W{0,6}response\W{1,4}(\d{1,4})\b"
    r"|^\W{0,4}(?:response\W{1,4})?(\d{1,4})\W{0,4}$",
    re.IGNORECASE,
)


class UniversalSelfConsistency(Parallel):
    """Draw n replies and return the one that the model finds the most consistent with the others.

    Right where answers cannot be compared: summaries, code, open questions. Published: 8 samples,
    one greedy question with all of them, from 1 on in the order in which they were drawn.

    We deviate. The question follows the conversation, whose prefix is in the cache, and comes
    after the responses. These get `characters` in equal shares, and of a longer one its last
    lines are shown, as the conclusion is there; with the conversation they have to fit the
    context. The verdict counts if it is the sentence that was asked for, once or always with the
    same number, or a number alone. Without one, and where the budget ended before the question,
    the most frequent answer wins, then the mean log-probability, as in `self_consistency`.
    """

    type: Literal["universal_self_consistency"] = "universal_self_consistency"
    paper: ClassVar[str] = (
        "Chen et al., Universal Self-Consistency for Large Language Model Generation, 2311.17311"
    )

    question: str = Field(
        QUESTION, min_length=1, max_length=MAX_PROMPT, description="Asked at the end."
    )
    characters: int = Field(
        16_000, ge=1, le=1_000_000, description="Shown of all responses together."
    )

    def samples(self, n: int) -> int:
        """Its width, and the question."""
        return super().samples(n) + 1

    def choices(self, n: int) -> int:  # noqa: ARG002
        """Only its width."""
        return self.n

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Sample, ask which one agrees most with the others, put it first."""
        candidates = await session.sample(self.n, temperature=self.temperature)
        if len(candidates) == 1:
            return candidates
        share = max(1, self.characters // len(candidates))
        texts = [ending(_visible(candidate), share) for candidate in candidates]
        listed = "\n\n".join(f"Response {i}: {text}" for i, text in enumerate(texts, 1))
        turns = [*session.prompt.messages, replied(listed), asked(self.question)]
        (verdict,) = await session.fork(turns, temperature=0.0, stop=()).sample(1)
        place = chosen(_visible(verdict), len(candidates))
        if place is None:
            return await self.rank(session, candidates)
        return [candidates[place], *candidates[:place], *candidates[place + 1 :]]

    async def rank(self, session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Let those with an answer vote; without any, the mean log-probability decides."""
        return (await session.votes(candidates)).ranked


def ending(text: str, characters: int) -> str:
    """Return the last whole lines that fit, or the end of the last line where it alone does not."""
    if len(text) <= characters:
        return text
    return text[-characters - 1 :].partition("\n")[2] or text[-characters:]


def chosen(verdict: str, count: int) -> int | None:
    """Return the place, from 0 on, of the one response of `count` that a verdict names, if any."""
    named = {int(sentence or alone) for sentence, alone in _VERDICT.findall(verdict.strip())}
    number = named.pop() if len(named) == 1 else 0
    return number - 1 if 1 <= number <= count else None


def _visible(candidate: Candidate) -> str:
    return str(said(candidate)["content"]).rpartition("</think>")[2].strip()
