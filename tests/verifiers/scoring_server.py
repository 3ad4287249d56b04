"""A real HTTP server that scores, fails and misbehaves on command."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.threaded import threaded
from verifiers.types import JSONObject


@dataclass
class ScoringStub:
    """What it answers, and what it was asked."""

    answer: Callable[[JSONObject], Any]
    faults: deque[Response | float] = field(default_factory=deque)
    """In place of the next answers: a response, or seconds to wait before answering."""
    asked: list[JSONObject] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.paths.append(request.url.path)
        self.keys.append(request.headers.get("authorization"))
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, Response):
            return fault
        if fault is not None:
            await asyncio.sleep(fault)
        return JSONResponse(self.answer(self.asked[-1]))


@contextmanager
def running(
    answer: Callable[[JSONObject], Any], port: int = 0, **behaviour: Any
) -> Iterator[ScoringStub]:
    """Serve in a thread, on a free port of 127.0.0.1 unless one is given."""
    stub = ScoringStub(answer, **behaviour)
    app = Starlette(routes=[Route("/{path:path}", stub.serve, methods=["POST"])])
    with threaded(app, port) as stub.port:
        yield stub
