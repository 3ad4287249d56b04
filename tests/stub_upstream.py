"""A real OpenAI-compatible server without a model, that tells what it did and fails on command.

`with running_stub(interval=0.05) as stub:` gives `stub.base_url` and `stub.records`;
`python -m tests.stub_upstream --port 9000` is for load tests.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from pydantic_core import from_json, to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tests import stub_wire as wire
from tests.stub_replies import JSON, Reply, choice, count_prompt
from tests.threaded import threaded


@dataclass
class Record:
    """What became of one request to write a reply."""

    body: JSON
    started: float
    tokens: list[float] = field(default_factory=list)
    """When each token was made, in `time.monotonic()` seconds, over all samples."""
    finished: float | None = None
    aborted: float | None = None
    """When the client was seen to have hung up."""
    fault: Fault | None = None
    """What went wrong on command."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the next request that is let through to it."""

    status: int = 200
    body: bytes | None = None
    """Sent as it is, in place of an answer."""
    headers: Mapping[str, str] = field(default_factory=dict)
    disconnect_after: int | None = None
    """Events sent before the connection breaks."""
    header_delay: float = 0.0


@dataclass
class Stub:
    """The server's behaviour, which tests change as they go, and its records."""

    interval: float = 0.0
    """Seconds per token; 0 answers at once."""
    model: str = "stub"
    max_model_len: int = 32_768
    honours_n: bool = True
    honours_seed: bool = True
    usage: bool = True
    continuous_usage: bool = True
    logprobs: bool = True
    continuation: bool = True
    tokenize: bool = True
    completions: bool = True
    reasoning: str = ""
    api_key: str | None = None
    faults: deque[Fault] = field(default_factory=deque)
    records: list[Record] = field(default_factory=list)
    port: int = 0
    recording: bool = True

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def tokens(self) -> int:
        return sum(len(record.tokens) for record in self.records)

    @property
    def running(self) -> int:
        """Requests that are neither finished nor aborted."""
        return sum(record.finished is None and record.aborted is None for record in self.records)

    def next_fault(self, body: JSON) -> Fault | None:
        """Tell what goes wrong with a request."""
        return self.faults.popleft() if self.faults else None

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", _Completions(self)),
            Route("/tokenize", self._tokenize, methods=["POST"]),
        ]
        if self.completions:
            routes.append(Route("/v1/completions", _Completions(self, plain=True)))
        return Starlette(routes=routes)

    def refusal(self, body: JSON) -> tuple[int, str, str] | None:
        """Check a request as vLLM does: status, message and param of what is wrong."""
        if body.get("model") not in (self.model, "stub-lora"):
            return 404, f"The model `{body.get('model')}` does not exist.", "model"
        if not body.get("messages"):
            return 400, "messages must not be empty", "messages"
        if count_prompt(body) + body.get("max_tokens", 16) > self.max_model_len:
            return 400, f"the context has {self.max_model_len} tokens", "messages"
        options = body.get("stream_options") or {}
        if options.get("continuous_usage_stats") and not self.continuous_usage:
            return 400, "unknown field continuous_usage_stats", "stream_options"
        return None

    def _models(self, request: Request) -> Response:
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return JSONResponse({"error": {"message": "bad key"}}, 401)
        card = {"id": self.model, "object": "model", "max_model_len": self.max_model_len}
        lora = {"id": "stub-lora", "object": "model", "parent": self.model}
        return JSONResponse({"object": "list", "data": [card, lora]})

    async def _tokenize(self, request: Request) -> Response:
        if not self.tokenize:
            return JSONResponse({"detail": "Not Found"}, 404)
        count = count_prompt(await request.json())
        return JSONResponse({"count": count, "max_model_len": self.max_model_len})


class _Completions:
    """The ASGI app of one route: works until it is done or the client hangs up."""

    def __init__(self, stub: Stub, *, plain: bool = False) -> None:
        self._stub = stub
        self._plain = plain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = self._understood(from_json(await Request(scope, receive).body()))
        fault = self._stub.next_fault(body)
        record = Record(body, time.monotonic(), fault=fault)
        if self._stub.recording:
            self._stub.records.append(record)
        work = asyncio.create_task(self._answer(body, record, fault, send))
        hang_up = asyncio.create_task(_hang_up(receive))
        await asyncio.wait({work, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        hang_up.cancel()
        if work.done():
            record.finished = time.monotonic()
            work.result()
            return
        work.cancel()
        record.aborted = time.monotonic()

    async def _answer(self, body: JSON, record: Record, fault: Fault | None, send: Send) -> None:
        if fault is not None:
            await asyncio.sleep(fault.header_delay)
            if fault.body is not None or fault.status != 200:
                content = fault.body or b'{"error": {"message": "injected", "param": "here"}}'
                await wire.respond(send, fault.status, content, fault.headers)
                return
        if (refused := self._stub.refusal(body)) is not None:
            status, message, param = refused
            error = {"message": message, "type": "BadRequestError", "param": param, "code": status}
            await wire.respond(send, status, to_json({"error": error}), {})
        elif body.get("stream"):
            await self._stream(body, record, fault, send)
        else:
            await self._whole(body, record, fault, send)

    def _understood(self, body: JSON) -> JSON:
        """Leave out what this behaviour does not know, as servers silently do."""
        stub, understood = self._stub, wire.plain_as_chat(body) if self._plain else dict(body)
        if not stub.continuation:
            understood.pop("continue_final_message", None)
        if not stub.honours_n:
            understood.pop("n", None)
        if not stub.honours_seed:
            understood["seed"] = time.monotonic_ns() % 2**40
        if not stub.logprobs:
            understood.pop("logprobs", None)
        return understood

    async def _whole(self, body: JSON, record: Record, fault: Fault | None, send: Send) -> None:
        replies = wire.replies(body)
        async for _ in self._steps(replies, record):
            pass
        if fault is not None and fault.disconnect_after is not None:
            await send(wire.start(200, {"content-length": "999999"}))
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            raise ConnectionAbortedError
        reasoning = self._stub.reasoning or None
        choices = [
            b'{"index":%d,' % index
            + (
                to_json(choice(reply, reasoning))[1:]
                if reply.tool_call or reasoning
                else reply.json
            )
            for index, reply in enumerate(replies)
        ]
        usage = wire.usage(body, sum(len(reply.pieces) for reply in replies))
        content = b"".join(
            (
                b'{"id":"chatcmpl-stub","object":"chat.completion","created":1,"model":"stub",',
                b'"usage":' + to_json(usage) + b"," if self._stub.usage else b"",
                b'"choices":[' + b",".join(choices) + b"]}",
            )
        )
        if self._plain:
            content = to_json(wire.chat_as_plain(from_json(content)))
        await wire.respond(send, 200, content, {})

    async def _stream(self, body: JSON, record: Record, fault: Fault | None, send: Send) -> None:
        replies, sent = wire.replies(body), 0
        options = (body.get("stream_options") or {}) if self._stub.usage else {}
        await send(wire.start(200, {"content-type": "text/event-stream"}))
        async for events in self._events(body, replies, record, options):
            for event in events:
                if self._plain:
                    event = wire.chat_as_plain(event)
                if fault is not None and sent == fault.disconnect_after:
                    raise ConnectionAbortedError
                await send(wire.part(b"data: " + to_json(event) + b"\n\n"))
                sent += 1
        if options.get("include_usage"):
            usage = wire.usage(body, sum(len(reply.pieces) for reply in replies))
            await send(wire.part(b"data: " + to_json({"choices": [], "usage": usage}) + b"\n\n"))
        await send(wire.part(b"data: [DONE]\n\n"))
        await send({"type": "http.response.body", "body": b""})

    async def _events(
        self, body: JSON, replies: list[Reply], record: Record, options: JSON
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        opening = [{"role": "assistant", "content": ""}]
        if self._stub.reasoning:
            opening += [{"reasoning": word} for word in self._stub.reasoning.split(" ")]
        yield [wire.event(index, delta) for index in range(len(replies)) for delta in opening]
        async for step in self._steps(replies, record):
            events = []
            for index, reply in enumerate(replies):
                if step >= len(reply.pieces):
                    continue
                event = wire.event(index, wire.delta(reply, step))
                if reply.logprobs is not None:
                    event["choices"][0]["logprobs"] = {"content": [reply.logprobs[step]]}
                if step + 1 == len(reply.pieces):
                    ended = {"finish_reason": reply.finish_reason, "stop_reason": reply.stop_reason}
                    event["choices"][0] |= ended
                if options.get("continuous_usage_stats"):
                    event["usage"] = wire.usage(body, step + 1)
                events.append(event)
            yield events

    async def _steps(self, replies: list[Reply], record: Record) -> AsyncGenerator[int, None]:
        """Make one token of every unfinished reply per interval, and note when."""
        for step in range(max(len(reply.pieces) for reply in replies)):
            if self._stub.interval:
                await asyncio.sleep(self._stub.interval)
            live = sum(step < len(reply.pieces) for reply in replies)
            record.tokens.extend([time.monotonic()] * live)
            yield step


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@contextmanager
def running_stub(**behaviour: Any) -> Iterator[Stub]:
    """Serve a stub in a thread on a free port of 127.0.0.1."""
    stub = Stub(**behaviour)
    with threaded(stub.app()) as stub.port:
        yield stub


def _config(stub: Stub) -> uvicorn.Config:
    return uvicorn.Config(
        stub.app(), ws="none", log_level="critical", timeout_graceful_shutdown=1, lifespan="off"
    )


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--interval", type=float, default=0.0, help="seconds per token")
    options = parser.parse_args()
    config = _config(Stub(interval=options.interval, recording=False))
    config.host, config.port = "127.0.0.1", options.port
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
