"""An engine that answers questions of one token with given probabilities of labels."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TypeAlias

from server.engines.scripted import ScriptedEngine
from server.engines.scripts import Script
from strategies.budget import Budget
from tests.strategies.harness import Bench
from verifiers.base import Verifier
from verifiers.types import Candidate, Chunk, Prompt, Sampling, TokenLogprob, Usage

Opinion: TypeAlias = Callable[[str], Mapping[str, float]]
"""The probabilities of the next token, by the text of the question."""

_QUOTATION = re.compile(r"^(`{3,})\n(.*?)\n\1$", re.DOTALL | re.MULTILINE)


class OpinionatedEngine(ScriptedEngine):
    """Answers what asks for alternatives by an opinion, all else by its script."""

    def __init__(self, opinion: Opinion, script: Script = lambda *_: "Well.") -> None:
        super().__init__(script)
        self.opinion = opinion
        self.asked: list[Prompt] = []
        """What asked for alternatives, in the order in which it came."""

    @property
    def questions(self) -> list[str]:
        """What was asked, as one text each."""
        return [_text(prompt) for prompt in self.asked]

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        if not sampling.logprobs:
            async for chunk in super().generate(prompt, sampling, n):
                yield chunk
            return
        assert (sampling.max_tokens, sampling.temperature, n) == (1, 0.0, 1)
        self.asked.append(prompt)
        self.log.update(started=1, finished=1, tokens=1)
        chances = self.opinion(_text(prompt))
        top = tuple((token, math.log(chance)) for token, chance in chances.items() if chance)
        said, logprob = max(top, key=lambda each: each[1])
        usage = Usage(0, await self.count_tokens(prompt), 0, 1)
        logprobs = (TokenLogprob(said, logprob, top),)
        yield Chunk(0, said, (1,), logprobs, finish_reason="length", usage=usage)


def _text(prompt: Prompt) -> str:
    """Join what was said after the instruction."""
    return "\n".join(str(each["content"]) for each in prompt.messages[1:])


def quotations(question: str) -> list[str]:
    """Return what a question quotes: the conversation, then replies."""
    return [found[2] for found in _QUOTATION.finditer(question)]


def candidates(*texts: str) -> list[Candidate]:
    return [Candidate(f"0.{i}", text, finish_reason="stop") for i, text in enumerate(texts)]


def bench(
    verifier: Verifier,
    opinion: Opinion,
    budget: Budget | None = None,
    script: Script = lambda *_: "Well.",
    **fields: object,
) -> tuple[Bench, OpinionatedEngine]:
    """Make a request whose verifier asks an engine with this opinion; `fields` are its own."""
    engine = OpinionatedEngine(opinion, script)
    told = verifier.Fields.model_validate(fields).model_dump(exclude_none=True)
    budget = budget or Budget(100_000, 10_000, 60.0)
    return Bench(engine, budget, verifier, told), engine


async def scores(request: Bench, given: Sequence[Candidate]) -> list[float | None]:
    """Let the request's verifier score; None: it abstained, or was not paid."""
    scored = await request.session.score(given)
    assert request.at_rest()
    return [None if each.score == -math.inf else each.score for each in scored]
