"""The application: routes, errors and what surrounds every request."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from server import health, lists
from server.chat import chat
from server.errors import add_error_handlers
from server.middleware import RequestLine
from server.openapi import (
    CHAT_PATHS,
    REPLAY_PATH,
    RERANK_PATHS,
    SCORE_PATHS,
    VERIFY_PATH,
    add_openapi,
)
from server.replay import replay
from server.rerank import rerank, score
from server.state import State
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
    }.items():
        app.add_route(path, endpoint, methods=["POST"])
    for path, route in {
        "/v1/models": lists.list_models,
        "/v1/models/{model:path}": lists.show_model,
        "/v1/strategies": lists.list_strategies,
        "/v1/verifiers": lists.list_verifiers,
        "/v1/traces/{trace_id}": lists.show_trace,
        "/v1/{strategy}/models": lists.list_models,
        "/healthz": health.live,
        "/readyz": health.ready,
        "/metrics": health.metrics,
    }.items():
        app.add_api_route(path, route)
    add_error_handlers(app)
    add_openapi(app, state.strategies)
    app.add_middleware(RequestLine, metrics=state.metrics, in_flight=state.in_flight)
    return app
