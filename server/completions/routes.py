"""`POST /v1/completions`: the chat line for a prompt without a chat template."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from server.answering import perform
from server.body import parse_request, read_body
from server.chat import event_stream, json_response
from server.completions.reply import TextWriter, text_completion
from server.completions.wire import REFUSED, RENAMED, CompletionRequest
from server.convert import Order, take_order
from server.disconnect import while_connected
from server.identity import Identity, identity_of
from server.renaming import renamed
from server.state import State
from server.streaming import stream

STRATEGY = "single"
"""What is served here: the others compare answers, which a text without a question has none of."""


async def complete(http: Request) -> Response:
    """Go on with a text, whole or as a stream."""
    received = time.monotonic()
    state: State = http.app.state.forethought
    body = await read_body(http, state.settings.limits.body_bytes)
    wire = parse_request(CompletionRequest, body, REFUSED)
    with renamed(RENAMED):
        identity = identity_of(http)
        order = await _order(wire, state, received, identity)
        http.scope["strategy"], http.scope["ledger"] = order.name, order.request.ledger
        work = perform(order, state, identity)
        if wire.stream:
            settings, writer = state.settings, TextWriter(order)
            frames = stream(order, work, settings.heartbeat_s, state.metrics, writer)
            return await event_stream(http, frames)
        outcome = await while_connected(work, http.receive)
    return json_response(text_completion(order, outcome))


async def answer_completion(body: bytes, state: State, identity: Identity) -> dict[str, Any]:
    """Answer the body of a request whole, without HTTP. Raises ForethoughtError."""
    wire = parse_request(CompletionRequest, body, REFUSED)
    with renamed(RENAMED):
        order = await _order(wire, state, time.monotonic(), identity)
        outcome = await perform(order, state, identity)
    return text_completion(order, outcome)


async def _order(
    wire: CompletionRequest, state: State, received: float, identity: Identity
) -> Order:
    order = await take_order(wire.as_chat(), state, STRATEGY, received, wire.asked, identity)
    return replace(order, id=f"cmpl-{secrets.token_hex(12)}")
