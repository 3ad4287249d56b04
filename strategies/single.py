"""One reply, streamed token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from strategies.base import Strategy
from strategies.session import Session
from verifiers.types import Candidate


class Single(Strategy):
    """Sample once, as any OpenAI-compatible server does: the baseline of every comparison."""

    type: Literal["single"] = "single"

    def samples(self, n: int) -> int:
        """One for each answer that the client wants."""
        return n

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Nothing is left to decide, so the reply streams from its first token."""
        return await session.conclude(session, session.n)
