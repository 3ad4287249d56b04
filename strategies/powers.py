"""The Session's face for verifiers: what a judge generates is paid, counted and cancelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from verifiers.concurrency import together
from verifiers.errors import BudgetSpent
from verifiers.types import Candidate, Equivalence, Prompt


class Asked(Protocol):
    """What a session on a verifier's prompt is asked for."""

    async def sample(self, n: int) -> list[Candidate]:
        """Draw n replies; raises BudgetSpent where not one can be paid."""

    async def extend(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Go on with candidates; raises BudgetSpent where nothing can be paid."""

    def blank(self, n: int) -> list[Candidate]:
        """Return n candidates that have not begun."""

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text; () where the engine has no ids."""


@dataclass(frozen=True, slots=True)
class SessionPowers:
    """Implements `verifiers.types.Powers` on a session's `question`, which opens another one."""

    question: Callable[..., Asked]
    equivalence: Equivalence

    async def ask(
        self,
        prompts: Sequence[Prompt],
        n: int = 1,
        *,
        engine: str | None = None,
        **sampling: Any,
    ) -> list[list[Candidate]]:
        """Open a session for each prompt and sample them at the same time."""
        asked = [self.question(prompt, engine, **sampling) for prompt in prompts]
        return await together(
            _answers(session, prompt, n) for session, prompt in zip(asked, prompts, strict=True)
        )

    async def tokenize(self, text: str, *, engine: str | None = None) -> tuple[int, ...]:
        """Ask the engine, which knows without any work."""
        return await self.question(Prompt(()), engine).tokenize(text)


async def _answers(session: Asked, prompt: Prompt, n: int) -> list[Candidate]:
    try:
        if prompt.reply is None:
            return await session.sample(n)
        return await _further(session, prompt, n)
    except BudgetSpent:
        return []


async def _further(session: Asked, prompt: Prompt, n: int) -> list[Candidate]:
    """Go on with the prompt's reply n times; return what is new."""
    assert prompt.reply is not None
    text, ids = prompt.reply.text, prompt.reply.token_ids
    begun = [replace(each, text=text, token_ids=ids) for each in session.blank(n)]
    grown = await session.extend(begun)
    return [
        replace(each, text=each.text[len(text) :], token_ids=each.token_ids[len(ids) :])
        for each in grown
        if each.tokens or each.done
    ]
