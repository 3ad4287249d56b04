"""Carry out an order to judge, and tell what was found and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from server.convert import described
from server.identity import Identity
from server.quotas import spending
from server.reply import stage_usage
from server.resolve import Judge
from server.state import State
from server.telemetry.base import Run
from server.traces.recording import keep
from server.verification import Question, Verification
from strategies.budget import Limit
from strategies.events import EventKind
from strategies.powers import SessionPowers
from strategies.request import Request
from strategies.session import Session
from verifiers.concurrency import together
from verifiers.errors import DeadlinePassed
from verifiers.types import Candidate, Reply


class Verdict(NamedTuple):
    """What the verifier says of one reply; no score where it abstains or could not be paid."""

    score: float | None
    steps: tuple[float, ...]
    confidence: float | None
    """How likely it is right, where the verifier is calibrated."""
    rank: int | None
    """1 is the best of its question; equal scores share a rank."""


async def judge_all(order: Verification, state: State, identity: Identity) -> list[list[Verdict]]:
    """Score every question's replies; however it ends, its costs are counted and its events kept.

    Raises:
        DeadlinePassed: it passed before there was a score.
        VerifierError, EngineError and their kinds: what the verifier asks fails.
    """
    async with spending(order, identity, state):
        try:
            with state.tracing.run(_run(order)):
                return await _judged(order)
        finally:
            state.metrics.observe(order.request, order.kind, order.judge.name)
            events = order.request.events.events
            await keep(state, identity, order.id, _described(order), events)


def _run(order: Verification) -> Run:
    return Run(order.id, order.kind, order.model, order.judge.name, order.request)


async def _judged(order: Verification) -> list[list[Verdict]]:
    asked = zip(order.sessions, order.questions, strict=True)
    scored = await together(_scored(order.request, *each) for each in asked)
    stopped_by = order.request.ledger.stopped_by
    verdicts = [_verdicts(order.judge, candidates) for candidates in scored]
    if stopped_by is Limit.DEADLINE and not any(each.rank for some in verdicts for each in some):
        raise DeadlinePassed("the deadline passed before there was a score")
    order.request.events.emit(
        EventKind.FINISHED,
        choices=[
            candidate.id
            for candidates, said in zip(scored, verdicts, strict=True)
            for candidate, verdict in zip(candidates, said, strict=True)
            if verdict.rank == 1
        ],
        answer=None,
        agreement=None,
        stopped_by=stopped_by,
    )
    return verdicts


async def _scored(request: Request, session: Session, question: Question) -> list[Candidate]:
    assert request.verifier is not None, "a verification has a verifier"
    candidates: Sequence[Candidate] = question.candidates
    if request.verifier.logprobs is not None:
        candidates = await _measured(request, session, candidates)
    return await session.score(candidates)


async def _measured(
    request: Request, session: Session, candidates: Sequence[Candidate]
) -> list[Candidate]:
    """Give replies the log-probabilities that the engine would have drawn them with.

    One whose raw text is not known, as it was parsed into reasoning or tool calls, has none.
    """
    choice = "none" if session.prompt.tools else None
    bare = replace(session.prompt, tool_choice=choice, response_format=None)
    plain = [each for each in candidates if each.message is None and each.text]
    measured = await SessionPowers(session.question, request.service.equivalence).ask(
        [replace(bare, reply=Reply(each.text)) for each in plain],
        max_tokens=1,
        reply_logprobs=True,
    )
    known = {
        each.id: replies[0].logprobs
        for each, replies in zip(plain, measured, strict=True)
        if replies
    }
    return [replace(each, logprobs=known.get(each.id, ())) for each in candidates]


def _verdicts(judge: Judge, candidates: Sequence[Candidate]) -> list[Verdict]:
    assert judge.verifier is not None, "a verification has a verifier"
    scores = [each.score for each in candidates]
    return [
        Verdict(
            each.score,
            each.steps,
            judge.verifier.probability(each.score),
            1 + sum(score > each.score for score in scores),
        )
        if math.isfinite(each.score)
        else Verdict(None, (), None, None)
        for each in candidates
    ]


def _described(order: Verification) -> dict[str, Any]:
    """Return what a trace keeps of the request itself."""
    budget = order.request.ledger.budget
    return {
        "kind": order.kind,
        "created": order.created,
        "model": order.model,
        "verifier": order.judge.name,
        "verifier_fields": dict(order.judge.fields),
        "budget": described(budget),
        "tokens": order.request.ledger.total.completion_tokens,
        "questions": [
            {
                "messages": question.prompt.messages,
                "tools": question.prompt.tools,
                "response_format": question.prompt.response_format,
                "candidates": [
                    {"id": each.id} | reply_fields(each) for each in question.candidates
                ],
            }
            for question in order.questions
        ],
    }


def usage(order: Verification) -> dict[str, Any]:
    """Count all that the verifier has read and generated."""
    total = order.request.ledger.total
    return {
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "total_tokens": total.prompt_tokens + total.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": total.cached_tokens},
    }


def scaling(order: Verification) -> dict[str, Any]:
    """Tell what judged, what stopped it and what it cost."""
    ledger = order.request.ledger
    return {
        "verifier": order.judge.name,
        "stopped_by": ledger.stopped_by,
        "usage": {stage.value: stage_usage(each) for stage, each in ledger.usage.items()},
        "seconds": round(ledger.seconds, 6),
        "trace_id": order.id,
    }


def reply_fields(candidate: Candidate) -> dict[str, Any]:
    """Write a reply down as it can be given."""
    return {
        "content": candidate.content,
        "reasoning": candidate.reasoning or None,
        "tool_calls": candidate.tool_calls,
        "finish_reason": candidate.finish_reason,
    }
