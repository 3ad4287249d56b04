"""From what a strategy came to, to OpenAI's ChatCompletion with `usage` and `scaling`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from server.cache.outcome import CachedOutcome
from server.convert import Order
from strategies.base import Outcome
from verifiers.types import Candidate, FinishReason, TokenLogprob, Usage

LEAST_LOGPROB = -9999.0
"""Written for minus infinity, which JSON has not; vLLM's server writes the same."""


def completion(order: Order, outcome: Outcome) -> dict[str, Any]:
    """Write the whole answer down."""
    return {
        "id": order.id,
        "object": "chat.completion",
        "created": order.created,
        "model": order.model,
        "choices": [_choice(order, *each) for each in enumerate(outcome.choices)],
        "usage": usage(order, outcome),
        "scaling": scaling(order, outcome),
    }


def usage(order: Order, outcome: Outcome) -> dict[str, Any]:
    """Count the prompt once, and everything that was generated for it."""
    ledger = order.request.ledger
    generated = ledger.total.completion_tokens
    prompt = order.request.prompt_tokens
    visible = sum(choice.tokens for choice in outcome.choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "completion_tokens_details": {"reasoning_tokens": max(0, generated - visible)},
    }


def scaling(order: Order, outcome: Outcome) -> dict[str, Any]:
    """Tell how the answer came about and what each stage cost."""
    ledger = order.request.ledger
    told: dict[str, Any] = {
        "strategy": order.name,
        "parameters": order.strategy.model_dump(exclude={"type"}),
        "verifier": order.judge.name,
        "stopped_by": outcome.stopped_by,
        "answer": outcome.answer,
        "agreement": outcome.agreement,
        "abstentions": outcome.abstentions,
        "confidence": _confidence(order, outcome),
        "scores": [finite(choice.score) for choice in outcome.choices],
        "usage": {stage.value: stage_usage(each) for stage, each in ledger.usage.items()},
        "seconds": round(ledger.seconds, 6),
        "trace_id": order.id,
    }
    if isinstance(outcome, CachedOutcome):
        told |= _cached(outcome)
    if order.wire.include and "candidates" in order.wire.include:
        told["candidates"] = [_candidate(each) for each in outcome.candidates]
    return told


def _cached(outcome: CachedOutcome) -> dict[str, Any]:
    """Tell what the cache did, and of what it gave: whose it is, and what that one had cost."""
    origin = outcome.origin
    if origin is None:
        return {"cache": outcome.cache}
    original = {
        "id": origin.id,
        "prompt_tokens": origin.prompt_tokens,
        "usage": origin.usage,
        "seconds": origin.seconds,
    }
    return {"cache": outcome.cache, "original": original, "trace_id": origin.id}


def finish_reason(choice: Candidate) -> FinishReason:
    """Return the reply's own reason; one that the budget cut off ended by its length."""
    return choice.finish_reason or "length"


def logprobs(entries: Sequence[TokenLogprob], top: int) -> dict[str, Any]:
    """Write log-probabilities as OpenAI does, with the `top` likeliest alternatives."""
    content = [
        _logprob(entry.token, entry.logprob)
        | {"top_logprobs": [_logprob(*each) for each in entry.top[:top]]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def finite(value: float) -> float | None:
    """Return the value, or None where there is none: JSON has no infinity."""
    return value if math.isfinite(value) else None


def _choice(order: Order, index: int, choice: Candidate) -> dict[str, Any]:
    wire = order.wire
    return {
        "index": index,
        "message": _message(choice, reasoning=wire.include_reasoning is not False),
        "logprobs": logprobs(choice.logprobs, wire.top_logprobs or 0) if wire.logprobs else None,
        "finish_reason": finish_reason(choice),
    }


def _message(choice: Candidate, *, reasoning: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.content, "refusal": None}
    if choice.tool_calls:
        message["tool_calls"] = choice.tool_calls
        message["content"] = choice.content or None
    if reasoning and choice.reasoning:
        message["reasoning_content"] = message["reasoning"] = choice.reasoning
    return message


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate.id,
        "parent": candidate.parent,
        "content": candidate.content,
        "reasoning": candidate.reasoning or None,
        "tool_calls": candidate.tool_calls,
        "tokens": candidate.tokens,
        "finish_reason": candidate.finish_reason,
        "score": finite(candidate.score),
        "steps": candidate.steps,
        "mean_logprob": finite(candidate.mean_logprob),
    }


def _confidence(order: Order, outcome: Outcome) -> float | None:
    """Return how probably the answer is right; None without a score, or what makes sense of it."""
    verifier = order.judge.verifier
    if verifier is None or not outcome.choices or not math.isfinite(outcome.choices[0].score):
        return None
    return verifier.probability(outcome.choices[0].score)


def stage_usage(usage: Usage) -> dict[str, Any]:
    """Write down what one stage cost."""
    return {
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "exact": usage.exact,
    }


def _logprob(token: str, value: float) -> dict[str, Any]:
    return {
        "token": token,
        "logprob": max(value, LEAST_LOGPROB),
        "bytes": list(token.encode()),
    }
