"""`/v1/batches`: create, list, tell of and cancel; and all routes of batches and their files."""

from __future__ import annotations

import re
import secrets
import time
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen
from fastapi import FastAPI, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from server.batches import files
from server.batches.batch import ENDED, Batch, Batches, Found
from server.batches.endpoints import endpoint_of
from server.batches.kept import Files
from server.batches.upload import HOUR_S, MONTH_S
from server.body import parse_request, read_body
from server.chat import json_response
from server.identity import identity_of
from server.state import State
from server.wire_messages import STRICT
from verifiers.errors import BadRequest

MOST = 100
"""Batches in one list."""
_WINDOW = re.compile(r"([1-9][0-9]{0,3})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "An error object as OpenAI's."}
}


class OutputExpiresAfter(BaseModel):
    """When the files that a batch writes are deleted."""

    model_config = STRICT

    anchor: Literal["created_at"]
    seconds: Annotated[int, Ge(HOUR_S), Le(MONTH_S)]


class BatchRequest(BaseModel):
    """What a new batch is to do."""

    model_config = STRICT

    input_file_id: Annotated[str, MaxLen(256)]
    endpoint: Annotated[str, MaxLen(256)]
    completion_window: str = Field(
        pattern=f"^{_WINDOW.pattern}$", description="Such as `24h`; what is not begun by then ends."
    )
    metadata: (
        Annotated[dict[Annotated[str, MaxLen(64)], Annotated[str, MaxLen(512)]], MaxLen(16)] | None
    ) = None
    output_expires_after: OutputExpiresAfter | None = None


def add_batches(app: FastAPI) -> None:
    """Add all routes of batches and files."""
    body = BatchRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    inline = body.pop("$defs")["OutputExpiresAfter"]
    body["properties"]["output_expires_after"] = {"anyOf": [inline, {"type": "null"}]}
    creation = {"required": True, "content": {"application/json": {"schema": body}}}
    for path, method, route, request in (
        ("/v1/files", "POST", files.upload_file, files.UPLOAD_BODY),
        ("/v1/files", "GET", files.list_files, None),
        ("/v1/files/{file_id}", "GET", files.show_file, None),
        ("/v1/files/{file_id}", "DELETE", files.delete_file, None),
        ("/v1/files/{file_id}/content", "GET", files.read_file, None),
        ("/v1/batches", "POST", create_batch, creation),
        ("/v1/batches", "GET", list_batches, None),
        ("/v1/batches/{batch_id}", "GET", show_batch, None),
        ("/v1/batches/{batch_id}/cancel", "POST", cancel_batch, None),
    ):
        app.add_api_route(
            path,
            route,
            methods=[method],
            responses=_ERRORS,
            openapi_extra=None if request is None else {"requestBody": request},
        )


async def create_batch(http: Request) -> Response:
    """Take a batch: from now on it is worked, whatever happens to this process."""
    state, owner = _state(http), identity_of(http).owner
    content = await read_body(http, state.settings.limits.body_bytes)
    asked = parse_request(BatchRequest, content, {})
    if endpoint_of(asked.endpoint, state) is None:
        raise BadRequest("batches cannot ask this endpoint", param="endpoint")
    file = await Files(state.store).owned(asked.input_file_id, owner, "input_file_id")
    if file.purpose != "batch":
        raise BadRequest("this file was not uploaded for a batch", param="input_file_id")
    window_s, now = window(asked.completion_window), int(time.time())
    chosen = asked.output_expires_after
    keep_s = state.settings.files.keep_s
    batch = Batch(
        id=f"batch_{secrets.token_hex(12)}",
        endpoint=asked.endpoint,
        input_file_id=file.id,
        completion_window=asked.completion_window,
        created_at=now,
        expires_at=now + window_s,
        metadata=asked.metadata,
        owner=owner,
        window_s=window_s,
        keep_output_s=keep_s if chosen is None else min(keep_s, chosen.seconds),
    )
    await Batches(state.store).add(batch)
    return json_response(batch.told())


async def list_batches(
    http: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 20,
) -> Response:
    """List the client's batches, the newest first."""
    found = await Batches(_state(http).store).page(identity_of(http).owner, after, limit + 1)
    return json_response(files.listed([batch.told() for batch in found], limit))


async def show_batch(http: Request, batch_id: str) -> Response:
    """Tell how a batch goes on."""
    found = await Batches(_state(http).store).owned(batch_id, identity_of(http).owner)
    return json_response(found.batch.told())


async def cancel_batch(http: Request, batch_id: str) -> Response:
    """Stop working a batch: lines that run end, the others are not begun."""
    state, batches = _state(http), Batches(_state(http).store)
    while True:
        found = await batches.owned(batch_id, identity_of(http).owner)
        if found.batch.ending == "cancelled":
            break
        if found.batch.status in ENDED or found.batch.ending is not None:
            told = f"a batch that is {found.batch.status} cannot be cancelled"
            raise BadRequest(told, param="batch_id")
        if await _cancel(batches, found):
            break
    await state.store.jobs.cancel(batch_id)
    found = await batches.owned(batch_id, identity_of(http).owner)
    return json_response(found.batch.told())


def window(text: str) -> int:
    """Return the seconds of a window such as `24h`."""
    found = _WINDOW.fullmatch(text)
    assert found is not None, "the request was validated"
    return int(found[1]) * _UNITS[found[2]]


async def _cancel(batches: Batches, found: Found) -> bool:
    now = int(time.time())
    return await batches.change(found, status="cancelling", ending="cancelled", cancelling_at=now)


def _state(http: Request) -> State:
    state: State = http.app.state.forethought
    return state
