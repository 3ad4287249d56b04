"""Whether the server lives, whether its engines answer, and its numbers."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from server.metrics import CONTENT_TYPE
from server.state import State
from verifiers.errors import EngineError, EngineTimeout, EngineUnavailable
from verifiers.types import Engine, Prompt, Sampling

FRESH_S = 5.0
"""For so long an engine's answer holds: probes come often and from several places."""
PATIENCE_S = 20.0
"""A loaded engine may take this long to make one token."""

_QUESTION = Prompt(({"role": "user", "content": "Hi"},))


class Readiness:
    """Asks every engine for one token, at most once in FRESH_S seconds."""

    def __init__(self, state: State) -> None:
        self._engines = state.service.engines
        self._lock = asyncio.Lock()
        self._checked = -FRESH_S
        self._error: EngineError | None = None

    async def check(self) -> None:
        """Return if every engine answers. Raises EngineUnavailable."""
        async with self._lock:
            if time.monotonic() - self._checked >= FRESH_S:
                self._error = await self._ask_all()
                self._checked = time.monotonic()
        if self._error is not None:
            raise EngineUnavailable(self._error.message)

    async def _ask_all(self) -> EngineError | None:
        for name, engine in self._engines.items():
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await _ask(engine)
            except TimeoutError:
                return EngineTimeout(f"the engine {name!r} made no token in {PATIENCE_S:.0f} s")
            except EngineError as error:
                return error
        return None


async def _ask(engine: Engine) -> None:
    sampling = Sampling(1, temperature=0.0)
    async with aclosing(engine.generate(_QUESTION, sampling)) as chunks:
        async for chunk in chunks:
            if chunk.error is not None:
                raise chunk.error


async def live(http: Request) -> Response:  # noqa: ARG001
    """Say that the process serves."""
    return PlainTextResponse("ok\n")


async def ready(http: Request) -> Response:
    """Say whether every engine really answers."""
    readiness: Readiness = http.app.state.readiness
    await readiness.check()
    return PlainTextResponse("ready\n")


async def metrics(http: Request) -> Response:
    """Write the counters in Prometheus' text format."""
    state: State = http.app.state.forethought
    return Response(state.metrics.render(), media_type=CONTENT_TYPE)
