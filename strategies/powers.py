"""The Session's face for verifiers: what a judge generates is paid, counted and cancelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from strategies.budget import Stage
from strategies.concurrency import together
from verifiers.errors import BudgetSpent
from verifiers.types import Candidate, Equivalence, JSONObject


class Fork(Protocol):
    """What a fork of a session is asked for."""

    async def sample(self, n: int) -> list[Candidate]:
        """Draw n replies; raises BudgetSpent where not one can be paid."""


@dataclass(frozen=True, slots=True)
class SessionPowers:
    """Implements `verifiers.types.Powers` on a session's `fork`."""

    fork: Callable[..., Fork]
    equivalence: Equivalence

    async def ask(
        self,
        conversations: Sequence[Sequence[JSONObject]],
        n: int = 1,
        *,
        engine: str | None = None,
        **sampling: Any,
    ) -> list[list[Candidate]]:
        """Fork a session for each conversation and sample them at the same time."""
        forks = [
            self.fork(messages, engine=engine, stage=Stage.VERIFY, **sampling)
            for messages in conversations
        ]
        return await together(_sample(fork, n) for fork in forks)


async def _sample(fork: Fork, n: int) -> list[Candidate]:
    try:
        return await fork.sample(n)
    except BudgetSpent:
        return []
