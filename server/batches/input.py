"""The input file of a batch: one request a line, checked as a whole before any is worked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import MaxLen, MinLen
from pydantic import BaseModel

from server.batches.batch import BatchError
from server.batches.endpoints import belongs, endpoint_of
from server.body import parse_request
from server.state import State
from server.wire_messages import STRICT
from verifiers.errors import BadRequest
from verifiers.types import JSONObject

MOST_ERRORS = 100
"""That are told of one file."""
_BREATH = 50
"""Lines between two turns of the event loop."""
_LINE_EXTRA = 4096
"""Bytes that a line may have beside its body."""
_BOM = b"\xef\xbb\xbf"

_CODES = {
    "custom_id": "invalid_custom_id",
    "method": "invalid_method",
    "url": "invalid_url",
    "body": "invalid_body",
}


class Line(BaseModel):
    """A request."""

    model_config = STRICT

    custom_id: Annotated[str, MinLen(1), MaxLen(512)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class Raw(NamedTuple):
    """A line as it stands in the file, and its number from 1; a part of it, if it is too long."""

    number: int
    content: bytes


async def raw_lines(pieces: AsyncIterator[bytes], most: int) -> AsyncIterator[Raw]:
    """Split a file into lines that are not blank; of one over `most` bytes, that much and more."""
    number, rest = 1, b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for content in whole:
            if content.strip():
                yield Raw(number, content)
            number += 1
        if len(rest) > most:
            break
    if rest.strip():
        yield Raw(number, rest)


class InputCheck:
    """Reads the lines of one file, and gathers what is wrong with them."""

    def __init__(self, endpoint: str, state: State) -> None:
        self._endpoint, self._state = endpoint, state
        limits = state.settings.limits
        self.most_bytes = limits.body_bytes + _LINE_EXTRA
        self.count = 0
        self.errors: list[BatchError] = []
        self._seen: set[str] = set()
        self._models: set[Any] = set()

    @property
    def model(self) -> str | None:
        """The model that all lines name."""
        match list(self._models):
            case [str(name)]:
                return name
        return None

    async def read(self, pieces: AsyncIterator[bytes]) -> None:
        """Read the whole file, or until there are too many errors."""
        most = self._state.settings.batches.max_lines
        async for raw in raw_lines(pieces, self.most_bytes):
            self.count += 1
            if self.count > most:
                self._fault("too_many_lines", f"a file may have at most {most} lines", raw.number)
                return
            self._check(raw)
            if len(self.errors) >= MOST_ERRORS:
                return
            if self.count % _BREATH == 0:
                await asyncio.sleep(0)
        if not self.count:
            self._fault("empty_file", "the file has no lines", None)

    def _check(self, raw: Raw) -> None:
        if len(raw.content) > self.most_bytes:
            self._fault("line_too_long", f"a line has at most {self.most_bytes} bytes", raw.number)
            return
        try:
            line = parse_line(raw)
        except BadRequest as error:
            name = (error.param or "").partition(".")[0]
            code = _CODES.get(name, "invalid_json_line" if not name else "unknown_field")
            self._fault(code, error.message, raw.number, error.param)
            return
        if line.custom_id in self._seen:
            told = "another line has this custom_id; it has to be unique in a batch"
            self._fault("duplicate_custom_id", told, raw.number, "custom_id")
        elif not belongs(line.url, self._endpoint):
            told = f"this line is not for the batch's endpoint, {self._endpoint}"
            self._fault("mismatched_url", told, raw.number, "url")
        elif endpoint_of(line.url, self._state) is None:
            self._fault("invalid_url", "there is no such endpoint", raw.number, "url")
        self._seen.add(line.custom_id)
        self._models.add(_named_model(line.body))

    def _fault(self, code: str, message: str, line: int | None, param: str | None = None) -> None:
        self.errors.append(BatchError(code=code, message=message, line=line, param=param))


def parse_line(raw: Raw) -> Line:
    """Read one line. Raises BadRequest."""
    content = raw.content.removeprefix(_BOM) if raw.number == 1 else raw.content
    return parse_request(Line, content, {})


def _named_model(body: JSONObject) -> str | None:
    name = body.get("model")
    return name if isinstance(name, str) else None
