"""Which route answers what: the table of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel

from server.document import batching, chat, judging, later, listing
from server.document.base import ErrorAnswer

JSON = "application/json"
TEXT = "text/plain"
EVENTS = "text/event-stream"
FILE = "application/octet-stream"
REF = "#/components/schemas/{model}"

Schema: TypeAlias = dict[str, Any]

_MEDIA: Mapping[str, Schema] = {
    TEXT: {"type": "string"},
    EVENTS: {"description": "Server-sent events, whose `data` is JSON; the last is `[DONE]`."},
    FILE: {"type": "string", "format": "binary"},
}


class Answers(NamedTuple):
    """What a route answers when nothing is wrong."""

    models: tuple[type[BaseModel], ...] = ()
    """As JSON; any of them."""
    media: tuple[str, ...] = ()
    """As something else."""
    status: int = 200


CHAT = Answers((chat.ChatCompletion, chat.DryRun, later.Background), (EVENTS,))
COMPLETION = Answers((chat.TextCompletion,), (EVENTS,))
RESPONSE = Answers((later.Response,), (EVENTS,))
VERIFICATION = Answers((judging.VerificationAnswer,))
RANKING = Answers((judging.RerankAnswer,))
SCORING = Answers((judging.ScoreAnswer,))
REPLAYING = Answers((judging.ReplayAnswer,))

ANSWERS: Mapping[tuple[str, str], Answers] = {
    ("get", "/v1/models"): Answers((listing.Models,)),
    ("get", "/v1/models/{model}"): Answers((listing.Model,)),
    ("get", "/v1/{strategy}/models"): Answers((listing.Models,)),
    ("get", "/v1/strategies"): Answers((listing.StrategyList,)),
    ("get", "/v1/verifiers"): Answers((listing.VerifierList,)),
    ("get", "/v1/traces"): Answers((listing.TraceList,)),
    ("get", "/v1/traces/{trace_id}"): Answers((listing.TraceAnswer,)),
    ("delete", "/v1/traces/{trace_id}"): Answers((listing.DeletedTrace,)),
    ("get", "/healthz"): Answers(media=(TEXT,)),
    ("get", "/readyz"): Answers((listing.Ready,)),
    ("get", "/metrics"): Answers(media=(TEXT,)),
    ("post", "/v1/files"): Answers((batching.StoredFile,)),
    ("get", "/v1/files"): Answers((batching.FileList,)),
    ("get", "/v1/files/{file_id}"): Answers((batching.StoredFile,)),
    ("delete", "/v1/files/{file_id}"): Answers((batching.DeletedFile,)),
    ("get", "/v1/files/{file_id}/content"): Answers(media=(FILE,)),
    ("post", "/v1/batches"): Answers((batching.BatchAnswer,)),
    ("get", "/v1/batches"): Answers((batching.BatchList,)),
    ("get", "/v1/batches/{batch_id}"): Answers((batching.BatchAnswer,)),
    ("post", "/v1/batches/{batch_id}/cancel"): Answers((batching.BatchAnswer,)),
    ("get", "/v1/background/{work_id}"): Answers((later.Background,)),
    ("get", "/v1/background/{work_id}/events"): Answers(media=(EVENTS,)),
    ("post", "/v1/background/{work_id}/cancel"): Answers((later.Background,)),
    ("delete", "/v1/background/{work_id}"): Answers((later.Deleted,)),
    ("get", "/v1/responses/{response_id}"): RESPONSE,
    ("get", "/v1/responses/{response_id}/input_items"): Answers((later.InputItems,)),
    ("post", "/v1/responses/{response_id}/cancel"): Answers((later.Response,)),
    ("delete", "/v1/responses/{response_id}"): Answers((later.Deleted,)),
}
"""By method and path, of routes that FastAPI sees."""


def responses(answers: Answers) -> dict[str, Any]:
    """Describe a route's answers, errors included."""
    content: dict[str, Any] = {media: {"schema": _MEDIA[media]} for media in answers.media}
    schemas: list[Schema] = [reference(model) for model in answers.models]
    if schemas:
        content[JSON] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    told = answers.models[0].__doc__ or "" if answers.models else "What was asked for."
    return {str(answers.status): {"description": told, "content": content}} | errors()


def errors() -> dict[str, Any]:
    """Describe errors, which are the same everywhere."""
    content = {JSON: {"schema": reference(ErrorAnswer)}}
    return {
        "4XX": {"description": "The request cannot be served.", "content": content},
        "5XX": {"description": "An engine, or the server, failed.", "content": content},
    }


def reference(model: type[BaseModel]) -> Schema:
    """Refer to a model's schema."""
    return {"$ref": REF.format(model=model.__name__)}


def all_models() -> set[type[BaseModel]]:
    """Return every model that the table names."""
    tables = (
        *ANSWERS.values(),
        CHAT,
        COMPLETION,
        RESPONSE,
        VERIFICATION,
        RANKING,
        SCORING,
        REPLAYING,
    )
    return {model for answers in tables for model in answers.models} | {ErrorAnswer}
