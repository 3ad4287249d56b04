"""The Session's face for verifiers: what a judge generates is paid, counted and cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strategies.budget import Stage
from strategies.concurrency import together
from verifiers.errors import BudgetSpent
from verifiers.types import Candidate, Equivalence, JSONObject

if TYPE_CHECKING:
    from strategies.session import Session


@dataclass(frozen=True, slots=True)
class SessionPowers:
    """Implements `verifiers.types.Powers` on a session."""

    session: Session
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
            self.session.fork(messages, engine=engine, stage=Stage.VERIFY, **sampling)
            for messages in conversations
        ]
        return await together(_sample(fork, n) for fork in forks)


async def _sample(fork: Session, n: int) -> list[Candidate]:
    try:
        return await fork.sample(n)
    except BudgetSpent:
        return []
