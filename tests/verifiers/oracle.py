"""An engine whose answers depend on the prompt's text alone, so that scores can be compared."""

from __future__ import annotations

import json
import math
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import TypeAlias

from server.engines.scripted import ScriptedEngine
from server.engines.scripts import split
from verifiers.types import TOKEN_IDS, Chunk, Prompt, Sampling, TokenLogprob

Says: TypeAlias = Callable[[str], str]
"""What it replies to a prompt's text, where it replies more than one token."""

LABELS = {tuple("0123456789"): 0.2, ("Yes", "No"): 0.15, ("+", "-"): 0.15, tuple("ABCDE"): 0.5}
"""Every label that a verifier reads from one token, and the mass of each group."""
MUTTERING = "well who knows"


class Oracle(ScriptedEngine):
    """Has an opinion in every label that a verifier may ask for; `mute`: in none.

    Of equal prompts, the opinions are equal, however often, in whatever order and beside whatever
    they are asked.
    """

    def __init__(self, name: str, says: Says, *, delay: float = 0.0, mute: bool = False) -> None:
        def script(prompt: Prompt, sampling: Sampling, index: int) -> str:
            return MUTTERING if mute else says(written(prompt))

        super().__init__(script, model=name, delay=delay)
        self._mute = mute

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        before = self._of_reply(prompt) if sampling.reply_logprobs else ()
        begun: set[int] = set()
        plain = replace(sampling, reply_logprobs=False)
        async for chunk in super().generate(prompt, plain, n):
            new = tuple(self._rated(prompt, entry) for entry in chunk.logprobs)
            yield replace(chunk, logprobs=new if chunk.index in begun else before + new)
            begun.add(chunk.index)

    def _rated(self, prompt: Prompt, entry: TokenLogprob) -> TokenLogprob:
        if self._mute:
            return TokenLogprob(entry.token, math.log(0.9), ((entry.token, math.log(0.9)),))
        draw = random.Random(f"{self.model} {written(prompt)}")
        top = []
        for labels, mass in LABELS.items():
            weights = [draw.uniform(0.4, 1) for _ in labels]
            shares = [math.log(mass * weight / sum(weights)) for weight in weights]
            top += list(zip(labels, shares, strict=True))
        ranked = tuple(sorted(top, key=lambda label: -label[1]))
        return TokenLogprob(*ranked[0], ranked)

    def _of_reply(self, prompt: Prompt) -> tuple[TokenLogprob, ...]:
        """Make up how likely each token of the reply was, by what comes before it."""
        if prompt.reply is None or self._mute:
            return ()
        pieces = split(prompt.reply.text)
        draw = random.Random(f"{self.model} {written(replace(prompt, reply=None))} {pieces[:1]}")
        return tuple(TokenLogprob(piece, math.log(draw.uniform(0.05, 1))) for piece in pieces)


def written(prompt: Prompt) -> str:
    """Return all that the model sees of a prompt, as text."""
    shown = [
        {name: value for name, value in message.items() if name != TOKEN_IDS}
        for message in prompt.messages
    ]
    reply = prompt.reply
    begun = None if reply is None else (reply.text, list(reply.token_ids))
    return json.dumps([shown, begun, prompt.adapter], sort_keys=True)
