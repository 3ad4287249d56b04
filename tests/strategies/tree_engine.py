"""An engine that walks a tree of steps, whatever the order in which it is asked."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from server.engines.scripted import ScriptedEngine
from verifiers.types import Chunk, Prompt, Sampling, TokenLogprob


def last_step(text: str) -> str:
    """Return the first word of the last step of a reply."""
    return text.rstrip().split("\n\n")[-1].split()[0] if text.strip() else ""


class TreeEngine(ScriptedEngine):
    """Draws the child i of a step as sample i; what has no children ends in an answer."""

    def __init__(
        self,
        children: Mapping[str, Sequence[str]],
        answers: Mapping[str, str] | None = None,
        *,
        chances: Mapping[str, float] | None = None,
        waits: Mapping[str, float] | None = None,
        shuffle: random.Random | None = None,
    ) -> None:
        """Grow the tree; by step: `answers`, token probabilities, seconds before its children.

        Without an answer of its own, a step answers with its first letter. `shuffle` adds up to
        a hundredth of a second before everything.
        """
        super().__init__(self._tell)
        self.children, self.answers = children, answers or {}
        self.chances, self.waits, self.shuffle = chances or {}, waits or {}, shuffle
        self.asked: list[tuple[str, int]] = []
        """Every group of samples: the step that it goes on from, and how many."""
        self.now = self.most = 0
        """Groups that are generated now, and the most that ever were."""

    def _tell(self, prompt: Prompt, sampling: Sampling, index: int) -> str:
        node = last_step(prompt.reply.text) if prompt.reply else ""
        told, place = "", sampling.first + index
        while node in self.children:
            node, place = self.children[node][place % len(self.children[node])], 0
            told += node + ("\n\n" if node in self.children else "")
        return f"{told} \\boxed{{{self.answers.get(node, node[0])}}}"

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        """Wait, draw, and put the known probabilities in."""
        node = last_step(prompt.reply.text) if prompt.reply else ""
        self.asked.append((node, n))
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.waits.get(node, 0.0))
        if self.shuffle is not None:
            await asyncio.sleep(self.shuffle.random() / 100)
        async for chunk in super().generate(prompt, sampling, n):
            chance = math.log(self.chances.get(last_step(chunk.text), 0.9))
            entries = tuple(TokenLogprob(each.token, chance) for each in chunk.logprobs)
            yield replace(chunk, logprobs=entries)
        self.now -= 1
