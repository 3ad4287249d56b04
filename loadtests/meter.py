"""A metering proxy: passes everything through and counts what whoever stands in front asked for.

    python -m loadtests.meter --upstream http://127.0.0.1:8000/v1 --port 9001

`GET /meter` gives the counts of the run, `POST /meter/reset` begins another; a call belongs to the
run in which it began. Chat and text completions are counted. A stream whose client did not ask for
usage is asked for it, and that chunk is kept back; all else goes through byte by byte. A client
that hangs up closes the upstream's connection; what was seen until then is counted, and `exact`
is false.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from loadtests.meter_count import Call, Run, json_object
from server.disconnect import ClientGone, while_connected
from server.engines.http_connection import Connections, pieces, read
from server.errors import error_response
from verifiers.errors import EngineError

_COUNTED = ("/v1/chat/completions", "/v1/completions")
_HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te",
    b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"accept-encoding",
    b"date", b"server",
}  # fmt: skip
"""Headers that each side writes for itself."""


class Meter:
    """The proxy: an ASGI app for the upstream's paths, and two routes of its own."""

    def __init__(self, upstream: str) -> None:
        url = httpx.URL(upstream)
        self._url = url.copy_with(path=url.path.rstrip("/").removesuffix("/v1"))
        self._connections = Connections(limit=1024, timeout=3600)
        self._run = Run()

    async def read(self, request: Request) -> Response:  # noqa: ARG002
        """Tell the run's counts."""
        return JSONResponse(self._run.summary())

    async def reset(self, request: Request) -> Response:  # noqa: ARG002
        """Begin a new run."""
        self._run = Run()
        return Response(status_code=204)

    async def aclose(self) -> None:
        """Close the connections to the upstream."""
        await self._connections.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on and its answer back."""
        request = Request(scope, receive)
        content = await request.body()
        counted = request.method == "POST" and scope["path"] in _COUNTED
        run = self._run if counted else Run()
        with run.call(json_object(content) if counted else {}) as call:
            try:
                await while_connected(self._pass(request, content, call, send), receive)
            except ClientGone:
                pass
            except EngineError as error:
                call.failed = True
                if not call.status:
                    await error_response(error)(scope, receive, send)

    async def _pass(self, request: Request, content: bytes, call: Call, send: Send) -> None:
        async with self._connections.exchange(self._request(request, call.body(content))) as answer:
            headers = [pair for pair in answer.headers.raw if pair[0].lower() not in _HOP_BY_HOP]
            start = {
                "type": "http.response.start",
                "status": answer.status_code,
                "headers": headers,
            }
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                whole = await read(answer)
                call.status = answer.status_code
                call.whole(whole)
                headers.append((b"content-length", str(len(whole)).encode()))
                await send(start)
                await send({"type": "http.response.body", "body": whole})
                return
            call.status = answer.status_code
            await send(start)
            async for data in pieces(answer):
                passed = call.feed(data)
                await send({"type": "http.response.body", "body": passed, "more_body": True})
            await send({"type": "http.response.body", "body": call.rest})

    def _request(self, request: Request, content: bytes) -> httpx.Request:
        scope = request.scope
        path: bytes = self._url.path.rstrip("/").encode() + scope["raw_path"]
        if scope["query_string"]:
            path += b"?" + scope["query_string"]
        headers = [pair for pair in request.headers.raw if pair[0] not in _HOP_BY_HOP]
        return httpx.Request(
            request.method,
            self._url.copy_with(raw_path=path),
            headers=[*headers, (b"accept-encoding", b"identity")],
            content=content,
        )


def meter_app(upstream: str) -> Starlette:
    """Make the proxy in front of the API at `upstream`, with or without its `/v1`."""
    meter = Meter(upstream)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
        yield
        await meter.aclose()

    routes = [
        Route("/meter", meter.read),
        Route("/meter/reset", meter.reset, methods=["POST"]),
        Route("/{path:path}", meter),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--upstream", required=True, help="URL up to and with its /v1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(meter_app(options.upstream), port=options.port, log_level="warning", ws="none")


if __name__ == "__main__":
    main()
