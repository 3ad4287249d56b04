"""`POST /v1/replay`: what each way of choosing would have returned, without generating anything.

    first        the first reply, as `single` gives it
    majority     `self_consistency`
    weighted     `weighted_vote` on the recorded scores
    max          `best_of_n` on the recorded scores
    most_likely  `best_of_n` on the mean log-probabilities, as the verifier `logprob` scores
    confidence   `confidence_vote`
    random       any finished reply: how often that is right
    oracle       a right one, if there is any: no way of choosing does better

The strategies themselves choose, among the first k replies in the order of drawing, and get each
reply as it was drawn: so the choice is the one that they would have made of these samples.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from server.body import parse_request, read_body
from server.chat import json_response
from server.disconnect import while_connected
from server.identity import Identity, identity_of
from server.state import State
from server.traces.routes import load_trace
from server.verification import check_count, given_candidate
from server.wire_verify import RecordedReply, ReplayRequest
from strategies.base import MAX_SAMPLES, Parallel, best_first
from strategies.best_of_n import BestOfN
from strategies.budget import Stage
from strategies.confidence_vote import ConfidenceVote
from strategies.events import EventKind
from strategies.selection import choose_again
from strategies.self_consistency import SelfConsistency
from strategies.weighted_vote import WeightedVote
from verifiers.answers import answer_of
from verifiers.discovery import type_name
from verifiers.errors import BadRequest
from verifiers.types import Candidate, JSONObject, Message, Prompt, Score, TokenLogprob


@dataclass(frozen=True, slots=True)
class Record:
    """Replies in the order of drawing, and what is known of them, by their ids."""

    prompt: Prompt
    replies: tuple[Candidate, ...]
    scores: Mapping[str, Score] = field(default_factory=dict)
    correct: Mapping[str, bool] = field(default_factory=dict)
    compared: bool = False
    """The scores compare all replies: they are not those that fewer would have got."""
    trace: str | None = None


async def replay(http: Request) -> Response:
    """Choose again among the replies of a trace, or of the client."""
    http.scope["strategy"] = "replay"
    started = time.monotonic()
    state: State = http.app.state.forethought
    body = await read_body(http, state.settings.limits.body_bytes)
    wire = parse_request(ReplayRequest, body, {})
    record = await _record(wire, state, identity_of(http))
    sizes = _sizes(wire.k, len(record.replies))
    data = await while_connected(_rows(record, sizes, state), http.receive)
    return json_response(
        {
            "id": f"replay-{secrets.token_hex(12)}",
            "object": "replay",
            "trace": record.trace,
            "candidates": len(record.replies),
            "data": data,
            "seconds": round(time.monotonic() - started, 6),
        }
    )


async def _record(wire: ReplayRequest, state: State, identity: Identity) -> Record:
    if wire.trace is not None:
        for name in ("candidates", "messages", "response_format"):
            if getattr(wire, name) is not None:
                raise BadRequest("the trace has its own", param=name)
        return recorded(await load_trace(state, identity, wire.trace, "trace"), state)
    if wire.candidates is None:
        raise BadRequest("give a `trace` or `candidates`", param="candidates")
    check_count(state, len(wire.candidates), "candidates")
    kind = wire.response_format
    prompt = Prompt(
        tuple(wire.messages or ()),
        response_format=None if kind is None or kind["type"] == "text" else kind,
    )
    return _given(wire.candidates, prompt)


def _given(given: Sequence[RecordedReply], prompt: Prompt) -> Record:
    replies: list[Candidate] = []
    scores, correct = {}, {}
    for index, each in enumerate(given):
        name, place = each.get("id", f"0.0.{index}"), f"candidates.{index}"
        if any(other.id == name for other in replies):
            raise BadRequest("two candidates have the same id", param=f"{place}.id")
        reply = given_candidate(each, name, place)
        replies.append(_drawn(reply, each.get("tokens", 0), each.get("mean_logprob")))
        if (score := each.get("score")) is not None:
            scores[name] = Score(score)
        if (right := each.get("correct")) is not None:
            correct[name] = right
    return Record(prompt, tuple(replies), scores, correct)


def recorded(trace: JSONObject, state: State) -> Record:
    """Read the replies that were drawn from the trace's own prompt, and their scores.

    Raises:
        BadRequest: the trace holds none.
    """
    rested = {
        event["data"]["id"]: event["data"]
        for event in trace["events"]
        if event["kind"] == EventKind.SAMPLED and event["data"]["stage"] == Stage.SAMPLE
    }
    drawn = [each for each in trace.get("drawn", ()) if each["id"] in rested][:MAX_SAMPLES]
    if not drawn:
        raise BadRequest(
            "no replies were drawn in this trace that can be chosen from", param="trace"
        )
    verifier = state.verifiers.get(trace["verifier"])
    return Record(
        Prompt(tuple(trace["messages"]), response_format=trace["response_format"]),
        tuple(_from_event(rested[each["id"]], each["message"]) for each in drawn),
        {
            data["id"]: Score(data["score"], tuple(data["steps"]))
            for data in (e["data"] for e in trace["events"] if e["kind"] == EventKind.SCORED)
            if not data["abstained"]
        },
        compared=verifier is not None and verifier.joint,
        trace=trace["id"],
    )


def _from_event(data: JSONObject, message: JSONObject | None) -> Candidate:
    reply = Candidate(
        data["id"],
        data["text"],
        message=None
        if message is None
        else Message(message["content"], message["reasoning"], tuple(message["tool_calls"])),
        finish_reason=data["finish_reason"],
    )
    return _drawn(reply, data["tokens"], data["mean_logprob"])


def _drawn(reply: Candidate, tokens: int, mean_logprob: float | None) -> Candidate:
    """Put the mean log-probability where it is read: as that of a single token."""
    entries = () if mean_logprob is None else (TokenLogprob("", mean_logprob),)
    return replace(reply, tokens=tokens, logprobs=entries)


def _sizes(asked: Sequence[int] | None, count: int) -> list[int]:
    if asked is None:
        return sorted({*(1 << power for power in range(count.bit_length())), count})
    for index, size in enumerate(asked):
        if size > count:
            raise BadRequest(f"there are {count} candidates", param=f"k.{index}")
    return sorted(set(asked))


async def _rows(record: Record, sizes: Sequence[int], state: State) -> list[dict[str, Any]]:
    rows = [_row(record, "first", None, 1, record.replies[0])]
    for size in sizes:
        for name, strategy, scores in _selections(record, size):
            rows.append(await _chosen(record, name, strategy, scores, state))
        rows += _references(record, size)
    return rows


def _selections(record: Record, size: int) -> Iterator[tuple[str, Parallel, Mapping[str, Score]]]:
    """Name the ways of choosing that the record has all for."""
    yield "majority", SelfConsistency(n=size), {}
    if record.scores and (size == len(record.replies) or not record.compared):
        yield "weighted", WeightedVote(n=size), record.scores
        yield "max", BestOfN(n=size), record.scores
    if any(each.logprobs for each in record.replies):
        likely = {e.id: Score(math.exp(e.mean_logprob)) for e in record.replies if e.logprobs}
        yield "most_likely", BestOfN(n=size), likely
        yield "confidence", ConfidenceVote(n=size), {}


async def _chosen(
    record: Record, name: str, strategy: Parallel, scores: Mapping[str, Score], state: State
) -> dict[str, Any]:
    replies = record.replies[: strategy.n]
    engine = next(iter(state.service.engines.values()))
    outcome = await choose_again(strategy, record.prompt, replies, scores, state.service, engine)
    row = _row(record, name, type_name(type(strategy)), strategy.n, outcome.choices[0])
    return row | {
        "answer": outcome.answer,
        "agreement": outcome.agreement,
        "abstentions": outcome.abstentions,
    }


def _references(record: Record, size: int) -> list[dict[str, Any]]:
    """Say what chance and foresight would make of it, where it is known what is right."""
    replies = record.replies[:size]
    if any(each.id not in record.correct for each in replies):
        return []
    open_to_chance = [each for each in replies if each.done] or replies
    right = [each for each in best_first(replies) if record.correct[each.id]]
    chance = _row(record, "random", None, size, None)
    chance["correct"] = fmean(record.correct[each.id] for each in open_to_chance)
    oracle = _row(record, "oracle", None, size, right[0] if right else None)
    return [chance, oracle | {"correct": float(bool(right))}]


def _row(
    record: Record, name: str, strategy: str | None, size: int, choice: Candidate | None
) -> dict[str, Any]:
    """Tell of one choice among the first `size`; `correct` is how likely it is right."""
    right = None if choice is None else record.correct.get(choice.id)
    return {
        "selection": name,
        "strategy": strategy,
        "k": size,
        "index": None if choice is None else [e.id for e in record.replies].index(choice.id),
        "id": None if choice is None else choice.id,
        "answer": None if choice is None else answer_of(choice, record.prompt),
        "agreement": None,
        "abstentions": 0,
        "correct": None if right is None else float(right),
        "tokens": sum(each.tokens for each in record.replies[:size]),
    }
