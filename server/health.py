"""Whether the server lives, whether engines and verifiers answer, and its numbers."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from server.chat import json_response
from server.draining import ServerEnding
from server.metrics import CONTENT_TYPE
from server.resolve import verifier_unavailable
from server.state import State
from server.store.base import StoreUnavailable
from verifiers.base import Verifier
from verifiers.concurrency import together
from verifiers.errors import EngineError, EngineTimeout, EngineUnavailable, VerifierError
from verifiers.types import Engine, Prompt, Sampling

FRESH_S = 5.0
"""For so long an engine's answer holds: probes come often and from several places."""
PATIENCE_S = 20.0
"""A loaded engine may take this long to make one token."""
VERIFIER_PATIENCE_S = 2.0
"""A verifier that takes longer to say how it is must not make the server look unready."""
OK = "ok"

_QUESTION = Prompt(({"role": "user", "content": "Hi"},))


class Readiness:
    """Asks engines for one token and verifiers how they are, at most once in FRESH_S seconds."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._engines = state.service.engines
        self._lock = asyncio.Lock()
        self._checked = -FRESH_S
        self._error: EngineError | None = None
        self._verifiers: dict[str, str] = {}
        self._store = OK

    async def check(self) -> dict[str, Any]:
        """Tell how everything is, if every engine answers. Raises EngineUnavailable.

        A verifier or a store that is away is told of: requests that do not need it are served.
        """
        async with self._lock:
            if time.monotonic() - self._checked >= FRESH_S:
                self._error = await self._ask_all()
                words = await together(map(self._word, self._state.verifiers.values()))
                self._verifiers = dict(zip(self._state.verifiers, words, strict=True))
                self._store = await self._store_word()
                self._checked = time.monotonic()
        if self._error is not None:
            raise EngineUnavailable(self._error.message)
        engines = dict.fromkeys(self._engines, OK)
        served = {each.name: each.version for each in self._state.models.values()}
        served |= {name: each.version for name, each in self._state.exchange.served.items()}
        return {
            "status": "ready",
            "engines": engines,
            "verifiers": self._verifiers,
            "store": self._store,
            "checkpoints": served,
        }

    async def _word(self, verifier: Verifier) -> str:
        """Say that a verifier can score now, or why it cannot."""
        able = next(iter(self._engines.values())).capabilities
        if reason := verifier_unavailable(self._state, verifier, able):
            return reason
        try:
            async with asyncio.timeout(VERIFIER_PATIENCE_S):
                await verifier.check()
        except TimeoutError:
            return f"it did not answer in {VERIFIER_PATIENCE_S:.0f} s"
        except VerifierError as error:
            return error.message
        return OK

    async def _store_word(self) -> str:
        try:
            await self._state.store.check()
        except StoreUnavailable as error:
            return error.message
        return OK

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
    """Say whether every engine really answers, and which verifiers and whether the store do."""
    readiness: Readiness = http.app.state.readiness
    state: State = http.app.state.forethought
    if state.draining.begun:
        raise ServerEnding
    return json_response(await readiness.check())


async def metrics(http: Request) -> Response:
    """Write the counters in Prometheus' text format."""
    state: State = http.app.state.forethought
    await state.metrics.store.measure(state.store)
    return Response(state.metrics.render(), media_type=CONTENT_TYPE)
