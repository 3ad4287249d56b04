"""`POST /v1/chat/completions`: the line that a request follows (DESIGN)."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from operator import setitem
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.answering import perform
from server.background.chat import ChatForm, submit_chat
from server.background.journal import follow
from server.background.work import Works
from server.body import read_chat_request
from server.convert import dry_run, take_order
from server.disconnect import ClientGone, while_connected
from server.errors import CLIENT_GONE
from server.identity import identity_of
from server.reply import completion
from server.state import State
from server.streaming import stream
from server.wire import ChatRequest

CACHE_HEADER = "X-Forethought-Cache"
"""What the cache did for an answer, where it was asked; as `scaling.cache`."""


async def chat(http: Request) -> Response:
    """Answer a chat request, whole or as a stream."""
    received = time.monotonic()
    state: State = http.app.state.forethought
    wire = await read_chat_request(http, state.settings.limits.body_bytes)
    if wire.background and not wire.dry_run:
        return await _in_background(http, wire)
    identity, path = identity_of(http), http.path_params.get("strategy")
    order = await take_order(wire, state, path, received, identity=identity)
    http.scope["strategy"], http.scope["ledger"] = order.name, order.request.ledger
    if wire.dry_run:
        return json_response(dry_run(order))
    headers: dict[str, str] = {}
    work = perform(order, state, identity, partial(setitem, headers, CACHE_HEADER))
    if wire.stream:
        frames = stream(order, work, state.settings.heartbeat_s, state.metrics)
        return await event_stream(http, frames, headers)
    outcome = await while_connected(work, http.receive)
    return json_response(completion(order, outcome), headers)


class EventStream(Response):
    """Sends frames as they come; a client that hangs up closes them, which stops the work."""

    media_type = "text/event-stream"

    def __init__(
        self, first: bytes, frames: AsyncGenerator[bytes, None], headers: Mapping[str, str]
    ) -> None:
        told = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers}
        super().__init__(headers=told)
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


async def _in_background(http: Request, wire: ChatRequest) -> Response:
    """Take a request on that is answered later; one that is to stream is followed at once."""
    state: State = http.app.state.forethought
    work = await submit_chat(wire, state, identity_of(http), http.path_params.get("strategy"))
    if not wire.stream:
        return json_response(ChatForm().shown(work))
    works = Works(state.store, state.settings.background)
    frames = follow(state.store, works, ChatForm(), work, 0, state.settings.heartbeat_s)
    return await event_stream(http, frames)


async def event_stream(
    http: Request, frames: AsyncGenerator[bytes, None], headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with frames once there is a first one: what fails before is an error answer.

    `headers` are read when it is there.
    """
    first = await while_connected(_first(frames), http.receive)
    return EventStream(first, frames, headers or {})


def json_response(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Write JSON; what is not a number becomes null."""
    content = to_json(body, inf_nan_mode="null")
    return Response(content, headers=headers, media_type="application/json")


def _part(frame: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": frame, "more_body": True}


async def _first(frames: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(frames)
