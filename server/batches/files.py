"""`/v1/files`: upload, list, tell of, read and delete the files of batches."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from server.batches.kept import File, Files
from server.batches.upload import uploaded
from server.chat import json_response
from server.errors import NotFound
from server.identity import identity_of
from server.state import State

MOST = 10_000
"""Files in one list."""

UPLOAD_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"type": "string", "enum": ["batch"]},
                },
            }
        }
    },
}
"""The form, for the OpenAPI document."""


async def upload_file(http: Request) -> Response:
    """Take a file: it is kept when this returns."""
    state = _state(http)
    kept_s = state.settings.files.keep_s
    async with uploaded(http, state.settings.files.max_bytes) as upload:
        if upload.expires_after is not None:
            kept_s = min(kept_s, upload.expires_after.seconds)
        file = await Files(state.store).write(
            f"file-{secrets.token_hex(12)}",
            upload.pieces(),
            filename=upload.filename,
            purpose="batch",
            owner=identity_of(http).owner,
            keep_s=kept_s,
        )
    return json_response(file.told())


async def list_files(
    http: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = MOST,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Response:
    """List the client's files."""
    files, owner = Files(_state(http).store), identity_of(http).owner
    if order == "desc":
        found = [file async for file in _some(files.listed(owner, after, purpose), limit + 1)]
    else:
        oldest = [file async for file in files.listed(owner, None, purpose)][::-1]
        places = [place for place, file in enumerate(oldest) if file.id == after]
        start = 0 if after is None else places[0] + 1 if places else len(oldest)
        found = oldest[start : start + limit + 1]
    return json_response(listed([file.told() for file in found], limit))


async def show_file(http: Request, file_id: str) -> Response:
    """Tell of a file."""
    file = await Files(_state(http).store).owned(file_id, identity_of(http).owner)
    return json_response(file.told())


async def read_file(http: Request, file_id: str) -> Response:
    """Send a file's bytes."""
    files = Files(_state(http).store)
    file = await files.owned(file_id, identity_of(http).owner)
    pieces = files.read(file.id)
    try:
        first = await anext(pieces, b"")
    except KeyError:
        raise NotFound(f"there is no file {file_id!r}", param="file_id") from None
    return StreamingResponse(
        _all(first, pieces),
        media_type="application/octet-stream",
        headers={"Content-Length": str(file.bytes)},
    )


async def delete_file(http: Request, file_id: str) -> Response:
    """Delete a file."""
    files = Files(_state(http).store)
    file = await files.owned(file_id, identity_of(http).owner)
    await files.delete(file.id)
    return json_response({"id": file.id, "object": "file", "deleted": True})


def listed(data: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Tell a page of a list, where one more than `limit` was looked for."""
    shown = data[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(data) > limit,
    }


async def _some(files: AsyncIterator[File], count: int) -> AsyncIterator[File]:
    async for file in files:
        yield file
        if not (count := count - 1):
            return


async def _all(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece


def _state(http: Request) -> State:
    state: State = http.app.state.forethought
    return state
