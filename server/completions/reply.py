"""What a run came to, in the form of OpenAI's legacy completions, whole or as a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.convert import Order
from server.reply import LEAST_LOGPROB, finish_reason, scaling, usage
from server.streaming import Writer
from strategies.base import Outcome
from verifiers.types import Candidate, TokenLogprob


def text_completion(order: Order, outcome: Outcome) -> dict[str, Any]:
    """Write the whole answer down."""
    return {
        "id": order.id,
        "object": "text_completion",
        "created": order.created,
        "model": order.model,
        "choices": [_choice(order, *each) for each in enumerate(outcome.choices)],
        "usage": usage(order, outcome),
        "scaling": scaling(order, outcome),
    }


def text_logprobs(entries: Sequence[TokenLogprob], top: int, offset: int = 0) -> dict[str, Any]:
    """Write log-probabilities as the endpoint does; the text before them has `offset` characters.

    The drawn token is always among the likeliest: there may be one more than `top`.
    """
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [_finite(entry.logprob) for entry in entries],
        "top_logprobs": [_top(entry, top) for entry in entries] if top else None,
        "text_offset": offsets,
    }


class TextWriter(Writer):
    """Writes the chunks of a completion, which are completions themselves."""

    kind = "text_completion"

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self._offsets = [0] * order.n

    def opening(self) -> bytes:
        """Nobody speaks here."""
        return b""

    def _logprobs(self, index: int, new: Sequence[TokenLogprob]) -> dict[str, Any]:
        told = text_logprobs(new, self._top or 0, self._offsets[index])
        self._offsets[index] += sum(len(entry.token) for entry in new)
        return told

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None = None,
        finish: str | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> bytes:
        text = delta.get("content", "")
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return self._frame({"choices": [choice], **(beside or {})})


def _choice(order: Order, index: int, choice: Candidate) -> dict[str, Any]:
    wire = order.wire
    logprobs = text_logprobs(choice.logprobs, wire.top_logprobs or 0) if wire.logprobs else None
    return {
        "index": index,
        "text": choice.content,
        "logprobs": logprobs,
        "finish_reason": finish_reason(choice),
    }


def _top(entry: TokenLogprob, top: int) -> dict[str, float]:
    likeliest = {token: _finite(logprob) for token, logprob in entry.top[:top]}
    return {entry.token: _finite(entry.logprob)} | likeliest


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)
