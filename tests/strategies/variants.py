"""Scripted engines that give less, or say how sure they are."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import TypeAlias

from server.engines.scripted import ScriptedEngine
from server.engines.scripts import Script
from verifiers.types import Chunk, Continuation, Prompt, Sampling, TokenLogprob

Chances: TypeAlias = Callable[[str], dict[str, float]]
"""The alternatives at the place of a token, and their probabilities; its own is the first."""


class TextOnly(ScriptedEngine):
    """Has no token ids, as an engine behind HTTP: what it goes on with is text."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.capabilities = replace(self.capabilities, continuation=Continuation.TEXT)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        return ()

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().generate(prompt, sampling, n):
            yield replace(chunk, token_ids=())


class Rated(ScriptedEngine):
    """Gives each token the probability that a test wants."""

    def __init__(self, script: Script, chances: Chances) -> None:
        super().__init__(script)
        self._chances = chances

    def _rate(self, entry: TokenLogprob) -> TokenLogprob:
        top = tuple((token, math.log(p)) for token, p in self._chances(entry.token).items())
        return TokenLogprob(entry.token, top[0][1], top)

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().generate(prompt, sampling, n):
            yield replace(chunk, logprobs=tuple(map(self._rate, chunk.logprobs)))
