"""An outcome that the cache had a part in, and how it is written down to be given again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

from strategies.base import Outcome
from strategies.budget import Limit
from verifiers.types import Candidate, JSONObject, Message, TokenLogprob

CacheStatus: TypeAlias = Literal["hit", "miss", "shared", "unavailable"]
"""It was kept; it was made for this request; it was being made for another one; it was made for
this request as the store is away."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The request that an outcome was made for, and what it had cost."""

    id: str
    prompt_tokens: int
    seconds: float
    usage: JSONObject
    """By stage, as in `scaling.usage`."""


@dataclass(frozen=True, slots=True)
class CachedOutcome(Outcome):
    """An outcome, with what the cache did for it."""

    cache: CacheStatus
    origin: Origin | None
    """None where it was made for this request."""


def with_cache(outcome: Outcome, cache: CacheStatus, origin: Origin | None) -> CachedOutcome:
    """Return the outcome with what the cache did for it."""
    told = {each.name: getattr(outcome, each.name) for each in fields(Outcome)}
    return CachedOutcome(**told, cache=cache, origin=origin)


def written(outcome: Outcome, *, logprobs: bool, candidates: bool) -> dict[str, Any]:
    """Write an outcome as JSON; log-probabilities and candidates where the answer shows them.

    What says how likely replies were is theirs, so candidates keep their log-probabilities.
    """
    kept = logprobs or candidates
    return {
        "choices": [_written(each, logprobs=kept) for each in outcome.choices],
        "candidates": [_written(each, logprobs=kept) for each in outcome.candidates]
        if candidates
        else [],
        "answer": outcome.answer,
        "agreement": outcome.agreement,
        "abstentions": outcome.abstentions,
        "stopped_by": outcome.stopped_by,
    }


def read(told: JSONObject) -> Outcome:
    """Read an outcome that was written."""
    stopped_by = told["stopped_by"]
    return Outcome(
        tuple(map(_read, told["choices"])),
        tuple(map(_read, told["candidates"])),
        told["answer"],
        told["agreement"],
        told["abstentions"],
        None if stopped_by is None else Limit(stopped_by),
    )


def _written(candidate: Candidate, *, logprobs: bool) -> dict[str, Any]:
    message = candidate.message
    return {
        "id": candidate.id,
        "text": candidate.text,
        "tokens": candidate.tokens,
        "logprobs": [_entry(each) for each in candidate.logprobs] if logprobs else [],
        "message": None
        if message is None
        else [message.content, message.reasoning, list(message.tool_calls)],
        "finish_reason": candidate.finish_reason,
        "stop_reason": candidate.stop_reason,
        "score": _finite(candidate.score),
        "steps": candidate.steps,
        "parent": candidate.parent,
    }


def _read(told: JSONObject) -> Candidate:
    message = told["message"]
    return Candidate(
        told["id"],
        told["text"],
        tokens=told["tokens"],
        logprobs=tuple(_logprob(*each) for each in told["logprobs"]),
        message=None if message is None else Message(message[0], message[1], tuple(message[2])),
        finish_reason=told["finish_reason"],
        stop_reason=told["stop_reason"],
        score=_or_least(told["score"]),
        steps=tuple(told["steps"]),
        parent=told["parent"],
    )


def _entry(entry: TokenLogprob) -> list[Any]:
    top = [(text, _finite(value)) for text, value in entry.top]
    return [entry.token, _finite(entry.logprob), top, entry.top_ids]


def _logprob(
    token: str, value: float | None, top: Sequence[Sequence[Any]], top_ids: Sequence[int]
) -> TokenLogprob:
    alternatives = tuple((text, _or_least(each)) for text, each in top)
    return TokenLogprob(token, _or_least(value), alternatives, tuple(top_ids))


def _finite(value: float) -> float | None:
    """Return the value, or None for minus infinity, which JSON has not."""
    return value if math.isfinite(value) else None


def _or_least(value: float | None) -> float:
    return -math.inf if value is None else value
