"""An upstream without a model that counts how often it was asked what: the witness of fault tests.

It answers after a random delay with the question itself, so that an answer tells whose it is.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loadtests.replay_wire import read_body, usage
from loadtests.servers import free_port
from server.disconnect import ClientGone, while_connected
from server.errors import CLIENT_GONE, error_response
from verifiers.errors import BadRequest, ForethoughtError

MODEL = "counting"
PROBE = "Count from 1 to 9."
"""What our HTTP engine asks its upstream at its start."""
_TOKENS = 8


class CountingUpstream:
    """Counts samples by question: those asked for, and those whose answer was sent."""

    def __init__(self, seed: int, longest_s: float) -> None:
        """Take at most `longest_s` seconds for an answer."""
        self._draw = random.Random(seed)
        self._longest_s = longest_s
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()

    @property
    def worked(self) -> int:
        """Different questions that were answered, but for those of a server that starts."""
        return len(self.answered.keys() - {PROBE})

    def app(self) -> Starlette:
        """Make the server."""
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ],
            exception_handlers={ForethoughtError: _on_error, ClientGone: _on_gone},
        )

    async def _models(self, request: Request) -> Response:  # noqa: ARG002
        card = {"id": MODEL, "object": "model", "max_model_len": 32_768}
        return JSONResponse({"object": "list", "data": [card]})

    async def _chat(self, request: Request) -> Response:
        body = read_body(await request.body())
        if body.stream:
            raise BadRequest("answers are whole here", param="stream")
        question, n = body.questions[0], body.n or 1
        self.asked[question] += n
        wait_s = self._draw.uniform(0.0, self._longest_s)
        await while_connected(asyncio.sleep(wait_s), request.receive)
        self.answered[question] += n
        message = {"role": "assistant", "content": f"You said: {question}"}
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}
            for index in range(n)
        ]
        told = {"id": "chatcmpl-counting", "object": "chat.completion", "created": 1}
        counted = {"usage": usage(_TOKENS, n * _TOKENS)}
        return JSONResponse(told | {"model": MODEL, "choices": choices} | counted)


@asynccontextmanager
async def serving_upstream(upstream: CountingUpstream) -> AsyncIterator[str]:
    """Serve on a free port of this machine while the block lasts; yields the URL with its /v1."""
    port = free_port()
    config = uvicorn.Config(
        upstream.app(), port=port, log_level="critical", ws="none", lifespan="off"
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """Uvicorn, which leaves the signals to whoever runs the test."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def _on_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, ForethoughtError)
    return error_response(error)


async def _on_gone(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=CLIENT_GONE)
