"""`POST /v1/verify`: what a verifier says of replies that the client brings."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from server.body import parse_request, read_body
from server.chat import json_response
from server.disconnect import while_connected
from server.identity import Identity, identity_of
from server.prompt import make_prompt
from server.resolve import choose_scorer, choose_target, targets
from server.state import State
from server.verdicts import Verdict, judge_all, reply_fields, scaling, usage
from server.verification import (
    Question,
    Terms,
    Verification,
    check_count,
    given_candidate,
    take_verification,
)
from server.wire_verify import VerifyRequest
from verifiers.answers import answer_of


async def verify(http: Request) -> Response:
    """Score and rank the candidates of one conversation."""
    http.scope["strategy"] = "verify"
    received = time.monotonic()
    state: State = http.app.state.forethought
    body = await read_body(http, state.settings.limits.body_bytes)
    wire = parse_request(VerifyRequest, body, {})
    order = _take(wire, state, received, identity_of(http))
    http.scope["ledger"] = order.request.ledger
    [verdicts] = await while_connected(judge_all(order, state, identity_of(http)), http.receive)
    shown = bool(wire.include and "candidates" in wire.include)
    return json_response(_answer(order, verdicts, shown=shown))


def _take(wire: VerifyRequest, state: State, received: float, identity: Identity) -> Verification:
    target = choose_target(targets(state), wire.model)
    judge = choose_scorer(state, target, wire.verifier)
    check_count(state, len(wire.candidates), "candidates")
    prompt = make_prompt(wire, target, state.settings.limits.max_messages)
    candidates = tuple(
        given_candidate(given, f"0.0.{place}", f"candidates.{place}")
        for place, given in enumerate(wire.candidates)
    )
    question = Question(prompt, candidates)
    terms = Terms(wire.budget, wire.seed, received, identity)
    return take_verification("verify", state, target, judge, [question], terms)


def _answer(order: Verification, verdicts: list[Verdict], *, shown: bool) -> dict[str, Any]:
    [question] = order.questions
    data: list[dict[str, Any]] = [
        {
            "index": index,
            "score": verdict.score,
            "confidence": verdict.confidence,
            "steps": verdict.steps,
            "abstained": verdict.score is None,
            "rank": verdict.rank,
        }
        for index, verdict in enumerate(verdicts)
    ]
    if shown:
        for entry, candidate in zip(data, question.candidates, strict=True):
            entry["candidate"] = reply_fields(candidate) | {
                "answer": answer_of(candidate, question.prompt)
            }
    return {
        "id": order.id,
        "object": "verification",
        "created": order.created,
        "model": order.model,
        "verifier": order.judge.name,
        "data": data,
        "usage": usage(order),
        "scaling": scaling(order),
    }
