"""One candidate while it is being generated."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from strategies.budget import Reservation
from verifiers.errors import ForethoughtError
from verifiers.types import Candidate, Chunk, FinishReason, Message, TokenLogprob


@dataclass(eq=False, slots=True)
class Lane:
    """What a candidate has gathered, and what is reserved for it."""

    index: int
    start: Candidate
    cap: int
    """New tokens that it may get in this race."""
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob]
    message: Message | None = None
    tokens: int = 0
    """New tokens so far."""
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    ended: bool = False
    error: ForethoughtError | None = None
    reservation: Reservation | None = None
    task: asyncio.Task[None] | None = None
    stopped: bool = False
    began: float | None = None
    """Seconds after the request's receipt at which an engine was first asked."""

    @classmethod
    def of(cls, index: int, candidate: Candidate, cap: int) -> Lane:
        """Open a lane that goes on where the candidate stands."""
        return cls(
            index,
            candidate,
            cap,
            candidate.text,
            list(candidate.token_ids),
            list(candidate.logprobs),
            candidate.message,
        )

    @property
    def blank(self) -> bool:
        """Whether nothing has been said or put in yet."""
        return self.start.tokens + self.tokens == 0 and not self.text

    def continues_like(self, other: Lane) -> bool:
        """Whether `other`, the next lane, starts from this lane's state and may get as much."""
        return (
            other.index == self.index + 1
            and (self.text, self.token_ids) == (other.text, other.token_ids)
            and self._share == other._share
        )

    @property
    def _share(self) -> int:
        return self.reservation.tokens if self.reservation is not None else 0

    def snapshot(self) -> Candidate:
        """Return the candidate as it stands."""
        return replace(
            self.start,
            text=self.text,
            token_ids=tuple(self.token_ids),
            tokens=self.start.tokens + self.tokens,
            logprobs=tuple(self.logprobs),
            message=self.message,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )

    def take(self, chunk: Chunk) -> None:
        """Add what the engine said."""
        self.text += chunk.text
        self.token_ids.extend(chunk.token_ids)
        self.logprobs.extend(chunk.logprobs)
        self.tokens += chunk.usage.completion_tokens
        if chunk.message is not None:
            self.message = chunk.message
