"""`POST /v1/chat/completions`: the line that a request follows (DESIGN)."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.body import read_chat_request
from server.convert import Order, describe, dry_run, take_order
from server.disconnect import ClientGone, while_connected
from server.errors import CLIENT_GONE
from server.reply import completion
from server.state import State
from server.streaming import stream
from server.traces import TraceStore
from strategies.base import Outcome, run
from strategies.events import Event
from verifiers.types import JSONObject

_log = logging.getLogger("forethought.traces")


async def chat(http: Request) -> Response:
    """Answer a chat request, whole or as a stream."""
    received = time.monotonic()
    state: State = http.app.state.forethought
    wire = await read_chat_request(http, state.settings.limits.body_bytes)
    order = await take_order(wire, state, http.path_params.get("strategy"), received)
    http.scope["strategy"], http.scope["ledger"] = order.name, order.request.ledger
    if wire.dry_run:
        return json_response(dry_run(order))
    if wire.stream:
        frames = stream(order, perform(order, state), state.settings.heartbeat_s, state.metrics)
        first = await while_connected(_first(frames), http.receive)
        return EventStream(first, frames)
    outcome = await while_connected(perform(order, state), http.receive)
    return json_response(completion(order, outcome))


async def perform(order: Order, state: State) -> Outcome:
    """Run the strategy; however it ends, its costs are counted and its events kept."""
    try:
        return await run(order.strategy, order.session, order.request)
    finally:
        state.metrics.observe(order.request, order.name)
        if state.traces is not None:
            await keep(state.traces, order.id, describe(order), order.request.events.events)


async def keep(
    traces: TraceStore, trace_id: str, header: JSONObject, events: Sequence[Event]
) -> None:
    """Keep the events; a full disk costs the trace, not the answer that was paid for."""
    try:
        await traces.save(trace_id, header, events)
    except sqlite3.Error as error:
        _log.error("%s: the trace is lost: %s", trace_id, error)


class EventStream(Response):
    """Sends frames as they come; a client that hangs up closes them, which stops the work."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        try:
            await while_connected(self._send(send), receive)
        except ClientGone:
            scope["status"] = CLIENT_GONE
        finally:
            await self._frames.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send(_part(self._first))
        async with aclosing(self._frames) as frames:
            async for frame in frames:
                await send(_part(frame))
        await send({"type": "http.response.body", "body": b""})


def json_response(body: Mapping[str, Any]) -> Response:
    """Write JSON; what is not a number becomes null."""
    return Response(to_json(body, inf_nan_mode="null"), media_type="application/json")


def _part(frame: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": frame, "more_body": True}


async def _first(frames: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(frames)
