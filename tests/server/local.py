"""The whole HTTP interface on a free port of this process, before a scripted engine."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from server.app import create_app
from server.background import working as background
from server.batches.worker import working
from server.checkpoints.in_flight import InFlight
from server.consistency import build_verifiers
from server.engines.scripted import ScriptedEngine
from server.following import make_exchange, make_watcher
from server.keys.ring import KeyRing
from server.metrics import Metrics, ObservedStore
from server.plugins import find_classes
from server.promoted import promoted_checkpoints
from server.protocol import bounded
from server.settings import Settings
from server.state import State
from server.store.base import Store
from server.store.opening import MEMORY, opened
from server.store.sqlite.store import SQLiteStore
from server.telemetry.base import Tracing, Untraced
from server.telemetry.opening import open_tracing
from server.traces import Traces
from server.traces.recording import opened_traces
from strategies.admission import Admission
from strategies.request import Service
from verifiers.equality import AnswerEquality
from verifiers.types import Engine

QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "What is 6 times 7?"}]


def make_state(
    engine: Engine,
    settings: Settings | None = None,
    *,
    admission: Admission | None = None,
    others: Mapping[str, Engine] | None = None,
    traces: Traces | None = None,
    store: Store | None = None,
    tracing: Tracing | None = None,
) -> State:
    """Put a state together without a configuration file; without a store, one in memory."""
    settings = settings or Settings(engine="scripted")
    admission = admission or Admission()
    store = store or SQLiteStore.in_memory()
    strategies, judges = find_classes(settings.plugins)
    service = Service({"main": engine, **(others or {})}, AnswerEquality(), admission)
    verifiers, in_flight = build_verifiers(settings, judges), InFlight()
    metrics = Metrics(admission, strategies, service.engines)
    return State(
        settings,
        service,
        strategies,
        verifiers,
        metrics,
        traces,
        make_exchange(settings, judges, service.engines, {}, verifiers, in_flight),
        ObservedStore(store, metrics.store),
        KeyRing(store.records, settings.keys),
        in_flight=in_flight,
        tracing=tracing or Untraced(),
    )


@dataclass
class Local:
    """A server under test, and a plain client of it."""

    engine: ScriptedEngine
    state: State
    url: str
    http: httpx.Client = field(repr=False)

    def post(self, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
        return self.http.post(path, json={"messages": QUESTION, **body})

    def refused(self, status: int = 400, path: str = "/v1/chat/completions", **body: Any) -> Any:
        """Send what must be refused before any work; return the error object."""
        before = self.engine.log.copy()
        response = self.post(path, **body)
        assert response.status_code == status, response.text
        assert self.engine.log == before
        return error_of(response)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 5.0) -> float:
        """Poll until the condition holds; return the seconds that it took."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < seconds, "too late"
            time.sleep(0.002)
        return time.monotonic() - start


def error_of(response: httpx.Response) -> Any:
    """Check that a response is an OpenAI error object and return it."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]


@contextmanager
def local(
    engine: ScriptedEngine | None = None,
    *,
    admission: Admission | None = None,
    others: Mapping[str, Engine] | None = None,
    traces: Path | Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Local]:
    """Serve until the block ends."""
    engine = engine or ScriptedEngine()
    ready: list[State] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        servers: list[uvicorn.Server] = []

        async def serve() -> None:
            known = Settings(engine="scripted", traces=traces, **settings)
            async with AsyncExitStack() as stack:
                store = await stack.enter_async_context(opened(known.store or MEMORY))
                kept = await stack.enter_async_context(opened_traces(known.traces, store))
                tracing = open_tracing(known.telemetry)
                state = make_state(
                    engine,
                    known,
                    admission=admission,
                    others=others,
                    traces=kept,
                    store=store,
                    tracing=await stack.enter_async_context(aclosing(tracing)),
                )
                config = uvicorn.Config(
                    create_app(state),
                    log_config=None,
                    http=bounded(state.settings.limits.head_s),
                    access_log=False,
                    lifespan="off",
                    ws="none",
                    timeout_graceful_shutdown=5,
                )
                servers.append(uvicorn.Server(config))
                ready.append(state)
                watcher = make_watcher(state)
                await watcher.begin(promoted_checkpoints(state.settings).values())
                async with (
                    aclosing(state.service.equivalence),  # type: ignore[type-var]
                    watcher.watching(state.settings.checkpoints_poll_s),
                    working(state),
                    background.working(state),
                ):
                    await servers[0].serve(sockets=[listener])

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        try:
            while not (servers and servers[0].started):
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.005)
            with httpx.Client(base_url=url, timeout=30) as http:
                yield Local(engine, ready[0], url, http)
        finally:
            if servers:
                servers[0].should_exit = True
            thread.join(15)
