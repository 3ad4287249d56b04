"""The OpenAPI document of the chat routes, built from the classes that validate requests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field, create_model

from server.wire import ChatRequest
from strategies.base import Strategy

CHAT_PATHS = ("/v1/chat/completions", "/v1/{strategy}/chat/completions")
REF = "#/components/schemas/{model}"


def chat_operation(path: str) -> dict[str, Any]:
    """Describe the chat route, which FastAPI does not see."""
    schema = {"$ref": REF.format(model="ChatCompletionRequest")}
    strategy = {"name": "strategy", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "summary": "Chat",
        "parameters": [strategy] if "{strategy}" in path else [],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {
                "description": "A chat completion with `usage` and `scaling`, or its chunks.",
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    "text/event-stream": {"schema": {"type": "string"}},
                },
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
            schema = request_model(strategies).model_json_schema(ref_template=REF)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(schema.pop("$defs"))
            schemas["ChatCompletionRequest"] = schema
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
