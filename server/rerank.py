"""`POST /v1/rerank` and `/v1/score`, in the shapes that clients of Jina, Cohere and vLLM use.

A query is a user's message, a document a reply to it. What the verifier abstains on, and what the
budget could not pay, comes last, marked `abstained`: these shapes want a number for each, so it has
0, or the least score where that is below.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from server.body import parse_request, read_body
from server.chat import json_response
from server.disconnect import while_connected
from server.identity import identity_of
from server.resolve import Judge, Named, Target, choose_scorer, choose_target, targets
from server.state import State
from server.verdicts import Verdict, judge_all, scaling, usage
from server.verification import (
    Question,
    Terms,
    check_count,
    take_verification,
)
from server.wire_verify import REFUSED_BY_RERANK, RerankRequest, ScoreRequest, Text
from verifiers.errors import BadRequest
from verifiers.types import Candidate, Prompt


async def rerank(http: Request) -> Response:
    """Sort documents by how well they answer a query."""
    http.scope["strategy"] = "rerank"
    received = time.monotonic()
    state: State = http.app.state.forethought
    body = await read_body(http, state.settings.limits.body_bytes)
    wire = parse_request(RerankRequest, body, REFUSED_BY_RERANK)
    target, judge = _chosen(state, wire.model, wire.verifier)
    check_count(state, len(wire.documents), "documents")
    question = _question(target, wire.query, wire.documents, 0)
    terms = Terms(wire.budget, wire.seed, received, identity_of(http))
    order = take_verification("rerank", state, target, judge, [question], terms)
    http.scope["ledger"] = order.request.ledger
    [verdicts] = await while_connected(judge_all(order, state, identity_of(http)), http.receive)
    results = []
    for index in _best_first(verdicts)[: wire.top_n or None]:
        result: dict[str, Any] = {"index": index}
        if wire.return_documents is not False:
            result["document"] = wire.documents[index]
        results.append(result | _told("relevance_score", index, verdicts))
    return json_response(
        {
            "id": order.id,
            "model": wire.model or order.model,
            "usage": usage(order),
            "results": results,
            "scaling": scaling(order),
        }
    )


async def score(http: Request) -> Response:
    """Score pairs of texts, in their order."""
    http.scope["strategy"] = "score"
    received = time.monotonic()
    state: State = http.app.state.forethought
    body = await read_body(http, state.settings.limits.body_bytes)
    wire = parse_request(ScoreRequest, body, REFUSED_BY_RERANK)
    target, judge = _chosen(state, wire.model, wire.verifier)
    check_count(state, len(wire.text_2), "text_2")
    questions = _questions(target, wire)
    terms = Terms(wire.budget, wire.seed, received, identity_of(http))
    order = take_verification("score", state, target, judge, questions, terms)
    http.scope["ledger"] = order.request.ledger
    said = await while_connected(judge_all(order, state, identity_of(http)), http.receive)
    verdicts = [verdict for some in said for verdict in some]
    return json_response(
        {
            "id": order.id,
            "object": "list",
            "created": order.created,
            "model": wire.model or order.model,
            "data": [
                {"index": index, "object": "score"} | _told("score", index, verdicts)
                for index in range(len(verdicts))
            ],
            "usage": usage(order),
            "scaling": scaling(order),
        }
    )


def _chosen(state: State, model: str | None, verifier: Named) -> tuple[Target, Judge]:
    """Find who judges: `model` may name a verifier, as it is all that reranking clients can set."""
    known = targets(state)
    if model in state.verifiers and model not in known:
        target = choose_target(known, None)
        given = verifier if isinstance(verifier, str) else {"name": model, **(verifier or {})}
        return target, choose_scorer(state, target, given)
    target = choose_target(known, model)
    return target, choose_scorer(state, target, verifier)


def _questions(target: Target, wire: ScoreRequest) -> list[Question]:
    """Pair the texts: 1 with each of N is one question, N with N are N."""
    if len(wire.text_1) == 1:
        return [_question(target, wire.text_1[0], wire.text_2, 0)]
    if len(wire.text_1) != len(wire.text_2):
        raise BadRequest(
            f"{len(wire.text_1)} texts cannot be paired with {len(wire.text_2)}: give 1, or as "
            "many",
            param="text_1",
        )
    pairs = enumerate(zip(wire.text_1, wire.text_2, strict=True))
    return [_question(target, query, [document], place) for place, (query, document) in pairs]


def _question(target: Target, query: Text, documents: Sequence[Text], place: int) -> Question:
    candidates = tuple(
        Candidate(f"{place}.0.{index}", document["text"], finish_reason="stop")
        for index, document in enumerate(documents)
    )
    message = {"role": "user", "content": query["text"]}
    return Question(Prompt((message,), adapter=target.adapter), candidates)


def _best_first(verdicts: Sequence[Verdict]) -> list[int]:
    """Order the places: by rank, those without one last, equal ones as they came."""
    last = len(verdicts) + 1
    return sorted(range(len(verdicts)), key=lambda index: verdicts[index].rank or last)


def _told(name: str, index: int, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    given = verdicts[index].score
    if given is not None:
        return {name: given}
    least = min((each.score for each in verdicts if each.score is not None), default=0.0)
    return {name: min(0.0, least), "abstained": True}
