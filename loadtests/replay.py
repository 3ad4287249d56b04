"""A replay upstream: an OpenAI server that answers known questions with recorded samples.

    python -m loadtests.replay POOL [POOL…] --port 9000 [--speed 10]

POOL is a directory, or the name of one in `loadtests/pools/`; `model` picks among them. A question
is known where a user message is it, or else contains it (the longest one wins): prompts may be
wrapped. Its samples are given in their recorded order, `n` at a time; past the last the answer is
a 400, until `POST /reset`. `GET /replay` tells how many were given and how many answers run.

Seeds and temperatures do nothing; what needs a model (grammars, tools, going on with a reply) is a
400. `--speed X` takes the recorded seconds divided by X; without it nothing waits. The question by
which our HTTP engine probes its upstream is answered without end, with log-probabilities if the
pools have them, never twice the same: it finds n, counts and log-probabilities, and no seeds.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from loadtests.pools import POOLS, Pool, Sample, open_pool
from loadtests.replay_cut import cut
from loadtests.replay_decks import decks_by_model, decks_of
from loadtests.replay_wire import (
    ChatBody,
    StreamOptions,
    choice,
    head,
    read_body,
    timed_chunks,
    usage,
)
from server.disconnect import ClientGone, while_connected
from server.errors import CLIENT_GONE, error_response
from verifiers.errors import ForethoughtError


class Replay:
    """Answers requests; its routes are the server."""

    def __init__(self, pools: Sequence[Pool], speed: float | None) -> None:
        self._decks = decks_by_model(pools)
        self._speed = speed
        self._running = 0

    async def models(self, request: Request) -> Response:  # noqa: ARG002
        """List every model that was recorded."""
        cards = [{"id": name, "object": "model", "owned_by": "replay"} for name in self._decks]
        return JSONResponse({"object": "list", "data": cards})

    async def reset(self, request: Request) -> Response:  # noqa: ARG002
        """Begin all questions anew."""
        for decks in self._decks.values():
            decks.reset()
        return Response(status_code=204)

    async def state(self, request: Request) -> Response:  # noqa: ARG002
        """Tell what was given of each model since the last reset, and how many answers run."""
        given = {name: decks.given for name, decks in self._decks.items()}
        return JSONResponse({"given": given, "running": self._running})

    async def chat(self, request: Request) -> Response:
        """Answer with the next samples, at once or at the recorded pace."""
        body = read_body(await request.body())
        samples = decks_of(self._decks, body.model).deal(body.questions, body.n or 1)
        if body.stream:
            return StreamingResponse(self._events(body, samples), media_type="text/event-stream")
        replies = [cut(sample, body.limits) for sample in samples]
        with self._run():
            wait = self._wait(max(reply.seconds for reply in replies))
            await while_connected(asyncio.sleep(wait), request.receive)
        tokens = sum(len(reply.tokens) for reply in replies)
        return JSONResponse(
            head("chat.completion", body.model, samples[0])
            | {"choices": [choice(index, reply) for index, reply in enumerate(replies)]}
            | {"usage": usage(samples[0].prompt_tokens, tokens)}
        )

    async def _events(self, body: ChatBody, samples: Sequence[Sample]) -> AsyncIterator[bytes]:
        """Write server-sent events; the response is cancelled when the client hangs up."""
        started = asyncio.get_running_loop().time()
        replies = [cut(sample, body.limits) for sample in samples]
        opening = head("chat.completion.chunk", body.model, samples[0])
        options = body.stream_options or StreamOptions()
        with self._run():
            for second, chunk in timed_chunks(replies, samples[0].prompt_tokens, options):
                until = started + self._wait(second)
                if (wait := until - asyncio.get_running_loop().time()) > 0:
                    await asyncio.sleep(wait)
                yield b"data: " + to_json(opening | chunk) + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _wait(self, seconds: float) -> float:
        return seconds / self._speed if self._speed else 0.0

    @contextmanager
    def _run(self) -> Iterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


def replay_app(pools: Sequence[Pool], speed: float | None = None) -> Starlette:
    """Make the server; `speed` divides the recorded seconds, None waits for nothing."""
    replay = Replay(pools, speed)
    return Starlette(
        routes=[
            Route("/v1/models", replay.models),
            Route("/v1/chat/completions", replay.chat, methods=["POST"]),
            Route("/reset", replay.reset, methods=["POST"]),
            Route("/replay", replay.state),
        ],
        exception_handlers={ForethoughtError: _on_error, ClientGone: _on_gone},
    )


async def _on_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, ForethoughtError)
    return error_response(error)


async def _on_gone(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=CLIENT_GONE)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pools", nargs="+", metavar="POOL")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--speed", type=float, help="divides recorded seconds; default: no wait")
    options = parser.parse_args()
    pools = [open_pool(POOLS / name) for name in options.pools]
    uvicorn.run(replay_app(pools, options.speed), port=options.port, log_level="warning", ws="none")


if __name__ == "__main__":
    main()
