"""An engine that divides the next token among labels as told, and writes what its script says."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, TypeAlias

from server.engines.scripted import ScriptedEngine
from verifiers.labels import ALTERNATIVES
from verifiers.types import Chunk, Prompt, Sampling, TokenLogprob, Usage

Chances: TypeAlias = Callable[[Prompt], Mapping[str, float]]
"""The probabilities of the next token after a prompt, by its text."""


class LabelEngine(ScriptedEngine):
    """Keeps every prompt that it was asked for a label after, in `asked`."""

    def __init__(self, chances: Chances, *script: Any, **given: Any) -> None:
        super().__init__(*script, **given)
        self.chances = chances
        self.asked: list[Prompt] = []

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        """Weigh the labels where alternatives are wanted, else write."""
        if sampling.logprobs != ALTERNATIVES:
            async for chunk in super().generate(prompt, sampling, n):
                yield chunk
            return
        assert (n, sampling.max_tokens, sampling.temperature) == (1, 1, 0.0)
        self.asked.append(prompt)
        top = [(token, math.log(chance)) for token, chance in self.chances(prompt).items()]
        likeliest = TokenLogprob(*top[0], tuple(top))
        usage = Usage(prompt_tokens=await self.count_tokens(prompt), completion_tokens=1)
        yield Chunk(0, top[0][0], (0,), (likeliest,), finish_reason="length", usage=usage)
