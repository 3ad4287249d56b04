"""The OpenAPI document of the routes that read bodies, built from the classes that check them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, NamedTuple

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field, create_model

from server.wire import ChatRequest
from server.wire_verify import ReplayRequest, RerankRequest, ScoreRequest, VerifyRequest
from strategies.base import Strategy

CHAT_PATHS = ("/v1/chat/completions", "/v1/{strategy}/chat/completions")
VERIFY_PATH = "/v1/verify"
RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
SCORE_PATHS = ("/v1/score", "/score")
REPLAY_PATH = "/v1/replay"
REF = "#/components/schemas/{model}"


class Route(NamedTuple):
    """A route that FastAPI does not see, as it reads its body itself."""

    paths: tuple[str, ...]
    summary: str
    answer: str
    request: type[BaseModel]


JUDGING = (
    Route((VERIFY_PATH,), "Verify", "A score and a rank for each candidate.", VerifyRequest),
    Route(RERANK_PATHS, "Rerank", "Documents, the best first.", RerankRequest),
    Route(SCORE_PATHS, "Score", "A score for each pair of texts.", ScoreRequest),
    Route(
        (REPLAY_PATH,), "Replay", "What each way of choosing would have returned.", ReplayRequest
    ),
)


def chat_operation(path: str) -> dict[str, Any]:
    """Describe the chat route."""
    told = "A chat completion with `usage` and `scaling`, or its chunks."
    operation = _operation("Chat", "ChatCompletionRequest", told)
    strategy = {"name": "strategy", "in": "path", "required": True, "schema": {"type": "string"}}
    operation["parameters"] = [strategy] if "{strategy}" in path else []
    operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return operation


def _operation(summary: str, request: str, answer: str) -> dict[str, Any]:
    schema = {"$ref": REF.format(model=request)}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {
                "description": answer,
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            "default": {"description": "An error object as OpenAI's."},
        },
    }


def request_model(strategies: Mapping[str, type[Strategy]]) -> type[BaseModel]:
    """Return the request's model with the union of the strategies that exist."""
    union: Any = reduce(or_, strategies.values())
    if len(strategies) > 1:
        union = Annotated[union, Field(discriminator="type")]
    return create_model(
        "ChatCompletionRequest",
        __base__=ChatRequest,
        strategy=(union | str | None, Field(None, description="A name, or it with parameters.")),
    )


def _add_schema(schemas: dict[str, Any], model: type[BaseModel]) -> None:
    """Add a model's schema, and those that it refers to, to the components."""
    schema = model.model_json_schema(ref_template=REF)
    schemas.update(schema.pop("$defs"))
    schemas[model.__name__] = schema


def add_openapi(app: FastAPI, strategies: Mapping[str, type[Strategy]]) -> None:
    """Let the app's document hold the request's schema."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            for path in CHAT_PATHS:
                document["paths"][path] = {"post": chat_operation(path)}
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            _add_schema(schemas, request_model(strategies))
            for route in JUDGING:
                _add_schema(schemas, route.request)
                operation = _operation(route.summary, route.request.__name__, route.answer)
                document["paths"].update({path: {"post": operation} for path in route.paths})
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
