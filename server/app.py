"""The application: routes, errors and what surrounds every request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from server import health, lists
from server.arrival import Arrival
from server.background.routes import add_background
from server.batches.role import HealthOnly
from server.batches.routes import add_batches
from server.chat import chat
from server.completions.routes import complete
from server.cut_off import CutOff
from server.errors import add_error_handlers
from server.keys.authentication import add_authentication
from server.keys.bootstrap import asks_for_keys
from server.middleware import RequestLine
from server.openapi import (
    CHAT_PATHS,
    COMPLETIONS_PATH,
    REPLAY_PATH,
    RERANK_PATHS,
    SCORE_PATHS,
    VERIFY_PATH,
    add_openapi,
)
from server.replay import replay
from server.rerank import rerank, score
from server.responses.routes import add_responses
from server.security import SecurityHeaders, add_cors
from server.state import State
from server.traces import routes as traces
from server.verify import verify


def create_app(state: State) -> FastAPI:
    """Put the HTTP interface before what `open_state` has started."""
    app = FastAPI(
        title="Forethought",
        version=version("forethought"),
        description="A test-time scaling inference server: ask once, think N times, get one "
        "better answer.",
    )
    app.state.forethought = state
    app.state.readiness = health.Readiness(state)
    for path, endpoint in {  # they read their bodies themselves: plain routes, which cost less
        **dict.fromkeys(CHAT_PATHS, chat),
        VERIFY_PATH: verify,
        **dict.fromkeys(RERANK_PATHS, rerank),
        **dict.fromkeys(SCORE_PATHS, score),
        REPLAY_PATH: replay,
        COMPLETIONS_PATH: complete,
    }.items():
        app.add_route(path, endpoint, methods=["POST"])
    reading: Mapping[str, Callable[..., Any]] = {
        "/v1/models": lists.list_models,
        "/v1/models/{model:path}": lists.show_model,
        "/v1/strategies": lists.list_strategies,
        "/v1/verifiers": lists.list_verifiers,
        "/v1/traces": traces.list_traces,
        "/v1/traces/{trace_id}": traces.show_trace,
        "/v1/{strategy}/models": lists.list_models,
        "/healthz": health.live,
        "/readyz": health.ready,
        "/metrics": health.metrics,
    }
    for path, route in reading.items():
        app.add_api_route(path, route)
    app.add_api_route("/v1/traces/{trace_id}", traces.delete_trace, methods=["DELETE"])
    add_batches(app)
    add_background(app)
    add_responses(app)
    add_error_handlers(app)
    add_openapi(app, state.strategies, keyed=asks_for_keys(state.settings))
    if asks_for_keys(state.settings):
        add_authentication(app, state.keys, state.store.limits)
    app.add_middleware(Arrival, body_s=state.settings.limits.body_s)
    if state.settings.role == "worker":
        app.add_middleware(HealthOnly)
    app.add_middleware(CutOff, draining=state.draining)
    add_cors(app, state.settings.cors)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(
        RequestLine, metrics=state.metrics, in_flight=state.in_flight, tracing=state.tracing
    )
    return app
