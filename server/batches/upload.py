"""Reading an upload: bounded while it comes, spooled to disk, every fault named by its field."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Le
from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from server.body import validated
from server.wire_messages import STRICT
from verifiers.errors import BadRequest, BodyTooLarge, WrongContentType

HOUR_S = 3_600
MONTH_S = 30 * 86_400
_FIELDS = 8
_FIELD_BYTES = 4096
_ENVELOPE_BYTES = 64 << 10
"""What the form may add to the file's own bytes."""
_PIECE_BYTES = 1 << 20
_NAME_LENGTH = 255

_MULTIPART = "multipart/form-data"


class ExpiresAfter(BaseModel):
    """When a file is deleted."""

    model_config = STRICT

    anchor: Literal["created_at"]
    seconds: Annotated[int, Ge(HOUR_S), Le(MONTH_S)]


class Upload(NamedTuple):
    """A file that was sent, as long as its form is open."""

    file: UploadFile
    filename: str
    expires_after: ExpiresAfter | None

    async def pieces(self) -> AsyncIterator[bytes]:
        """Read it in pieces."""
        while piece := await self.file.read(_PIECE_BYTES):
            yield piece


@asynccontextmanager
async def uploaded(http: Request, limit: int) -> AsyncIterator[Upload]:
    """Read a form with a file of at most `limit` bytes; its spool is gone after the block.

    Raises:
        WrongContentType, BodyTooLarge, BadRequest
    """
    content_type = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != _MULTIPART:
        raise WrongContentType(f"an upload has to be declared as `Content-Type: {_MULTIPART}`")
    if http.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise WrongContentType("an upload has to come without `Content-Encoding`")
    parser = MultiPartParser(
        http.headers,
        _bounded(http, limit),
        max_files=1,
        max_fields=_FIELDS,
        max_part_size=_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadRequest(f"the form cannot be read: {error.message}") from None
    try:
        yield _understood(form, limit)
    finally:
        await form.close()


async def _bounded(http: Request, limit: int) -> AsyncGenerator[bytes, None]:
    most, size = limit + _ENVELOPE_BYTES, 0
    declared = http.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > most:
        raise _too_large(limit)
    async for piece in http.stream():
        size += len(piece)
        if size > most:
            raise _too_large(limit)
        yield piece


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"a file may have at most {limit} bytes", param="file")


def _understood(form: FormData, limit: int) -> Upload:
    """Check the fields, as OpenAI names them."""
    expires: dict[str, Any] = {}
    for name in form:
        if name in ("expires_after[anchor]", "expires_after[seconds]"):
            value = str(form[name])
            expires[name[14:-1]] = int(value) if value.isascii() and value.isdigit() else value
        elif name not in ("file", "purpose"):
            raise BadRequest("there is no such field", param=name)
    if form.get("purpose") != "batch":
        raise BadRequest("the purpose of a file has to be `batch`", param="purpose")
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise BadRequest("a file is required", param="file")
    if (file.size or 0) > limit:
        raise _too_large(limit)
    chosen = validated(ExpiresAfter, expires, "expires_after") if expires else None
    return Upload(file, (file.filename or "file.jsonl")[-_NAME_LENGTH:], chosen)
