"""What verifiers share that ask a model for one token and read two labels in it."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from verifiers.base import Verifier
from verifiers.labels import ALTERNATIVES, label_masses
from verifiers.types import Capabilities, Powers, Prompt

UNREAD = math.nan
"""The labels hold too little of the probability, or the question could not be paid."""


class LabelReader(Verifier, ABC):
    """A verifier whose word is p(good) / (p(good) + p(bad)) of the next token.

    Both are read among the 20 likeliest tokens: a label that is not there counts as 0.
    """

    engine: str | None = Field(None, description="A configured engine; default: the policy's.")
    adapter: str | None = Field(
        None, description="A LoRA adapter of that engine; default: what the policy draws with."
    )
    least_mass: float = Field(
        0.1, gt=0, le=1, description="Least probability of both labels together, to be believed."
    )

    @property
    def partial(self) -> bool:
        """Any reply so far can be judged."""
        return True

    @property
    def asked(self) -> str | None:
        """The engine whose next token is read."""
        return self.engine

    def unavailable(self, policy: Capabilities, asked: Capabilities) -> str | None:  # noqa: ARG002
        """Labels are found among alternatives."""
        if not asked.logprobs:
            return "the engine gives no alternatives to a token, so no label can be weighed"
        return adapter_missing(self.adapter, asked)

    async def read(
        self, prompts: Sequence[Prompt], powers: Powers, good: str, bad: str
    ) -> list[float]:
        """Return the share of `good` after each prompt, in [0, 1] or UNREAD, all asked at once."""
        replies = await powers.ask(
            prompts,
            engine=self.engine,
            max_tokens=1,
            temperature=0.0,
            logprobs=ALTERNATIVES,
        )
        masses = [label_masses(each, (good, bad)) for each in replies]
        return [UNREAD if yes + no < self.least_mass else yes / (yes + no) for yes, no in masses]

    def adapted(self, prompt: Prompt) -> Prompt:
        """Have the configured adapter answer, where there is one."""
        return prompt if self.adapter is None else replace(prompt, adapter=self.adapter)


def adapter_missing(name: str | None, able: Capabilities) -> str | None:
    """Say that an engine has no such adapter; None if it has, or none is named."""
    if name is None or name in able.adapters:
        return None
    return f"the engine has no adapter {name!r}"
