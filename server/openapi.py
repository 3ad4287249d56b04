"""The OpenAPI document: FastAPI's, and what it cannot see as routes read bodies themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, NamedTuple, TypeAlias

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field, WithJsonSchema, create_model

from server.completions.wire import CompletionRequest
from server.document import operations as documented
from server.document.operations import JSON, REF, Answers
from server.responses.wire import ResponseRequest
from server.wire import ChatRequest
from server.wire_verify import ReplayRequest, RerankRequest, ScoreRequest, VerifyRequest
from strategies.base import Strategy

CHAT_PATHS = ("/v1/chat/completions", "/v1/{strategy}/chat/completions")
VERIFY_PATH = "/v1/verify"
RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
SCORE_PATHS = ("/v1/score", "/score")
REPLAY_PATH = "/v1/replay"
COMPLETIONS_PATH = "/v1/completions"
RESPONSE_PATHS = ("/v1/responses", "/v1/{strategy}/responses")
_OPEN = frozenset({"/healthz", "/readyz"})
_PLACE = re.compile(r"\{(\w+)\}")
_NEVER_SENT = ("HTTPValidationError", "ValidationError")
"""FastAPI's own errors: ours are OpenAI's."""


_Nameless: TypeAlias = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "not": {"required": ["type"]},
            "description": "Parameters of the strategy that the URL or the preset names.",
        }
    ),
]


class Route(NamedTuple):
    """A route that FastAPI does not see, as it reads its body itself."""

    paths: tuple[str, ...]
    summary: str
    answers: Answers
    request: type[BaseModel]


JUDGING = (
    Route((VERIFY_PATH,), "Verify", documented.VERIFICATION, VerifyRequest),
    Route(RERANK_PATHS, "Rerank", documented.RANKING, RerankRequest),
    Route(SCORE_PATHS, "Score", documented.SCORING, ScoreRequest),
    Route((REPLAY_PATH,), "Replay", documented.REPLAYING, ReplayRequest),
)
ANSWERING = (
    Route((COMPLETIONS_PATH,), "Complete", documented.COMPLETION, CompletionRequest),
    Route(RESPONSE_PATHS, "Respond", documented.RESPONSE, ResponseRequest),
)


def request_model(strategies: Mapping[str, type[Strategy]]) -> type[BaseModel]:
    """Return the request's model with the union of the strategies that exist."""
    union: Any = reduce(or_, strategies.values())
    if len(strategies) > 1:
        union = Annotated[union, Field(discriminator="type")]
    return create_model(
        "ChatCompletionRequest",
        __base__=ChatRequest,
        strategy=(
            union | _Nameless | str | None,
            Field(None, description="A name, or it with parameters."),
        ),
    )


def add_openapi(
    app: FastAPI, strategies: Mapping[str, type[Strategy]], *, keyed: bool = False
) -> None:
    """Let the app's document hold every route whole; `keyed`: clients need a key."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            chat = Route(CHAT_PATHS, "Chat", documented.CHAT, request_model(strategies))
            _add_routes(document, (chat, *ANSWERING, *JUDGING))
            _complete(document, keyed=keyed)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_routes(document: dict[str, Any], routes: tuple[Route, ...]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for route in routes:
        _add_schema(schemas, route.request)
        for path in route.paths:
            schema = documented.reference(route.request)
            operation = {
                "summary": route.summary,
                "operationId": path.strip("/").replace("/", "_").strip("{}"),
                "requestBody": {"required": True, "content": {JSON: {"schema": schema}}},
                "responses": documented.responses(route.answers),
            }
            document["paths"].setdefault(path, {})["post"] = operation
    for model in documented.all_models():
        _add_schema(schemas, model)


def _complete(document: dict[str, Any], *, keyed: bool) -> None:
    """Say of every route what FastAPI leaves out: parameters of the path, answers, errors, keys."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if (answers := documented.ANSWERS.get((method, path))) is not None:
                operation["responses"] = documented.responses(answers)
            for never in ("422", "default"):
                operation["responses"].pop(never, None)
            operation["responses"] |= documented.errors()
            known = operation.setdefault("parameters", [])
            for name in set(_PLACE.findall(path)) - {each["name"] for each in known}:
                known.append(_in_path(name))
            if keyed and path not in _OPEN:
                operation["security"] = [{"key": []}]
    components = document["components"]
    for name in _NEVER_SENT:
        components["schemas"].pop(name, None)
    if keyed:
        scheme = {"type": "http", "scheme": "bearer", "description": "`forethought keys create`"}
        components["securitySchemes"] = {"key": scheme}


def _in_path(name: str) -> dict[str, Any]:
    described = f"The {name.replace('_', ' ')}."
    schema = {"type": "string", "minLength": 1}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": described,
        "schema": schema,
    }


def _add_schema(schemas: dict[str, Any], model: type[BaseModel]) -> None:
    """Add a model's schema, and those that it refers to, to the components."""
    schema = model.model_json_schema(ref_template=REF)
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
