"""Reading a request's body: bounded while it comes, strict JSON, every fault named by its field."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, to_json
from starlette.requests import Request

from server.wire import REFUSED, ChatRequest
from verifiers.errors import BadRequest, BodyTooLarge, WrongContentType

Model = TypeVar("Model", bound=BaseModel)

MOST_KEYS = 4096
"""Of one object in a body."""
_LONGEST_NAME = 64
"""Of a field that is looked for among those that there are."""
MOST_BRACES = 200_000
"""Of all objects and texts in it."""


async def read_chat_request(http: Request, limit: int) -> ChatRequest:
    """Read a chat request of at most `limit` bytes; raises as `read_body` and `parse_request`."""
    return parse_chat_request(await read_body(http, limit))


async def read_body(http: Request, limit: int) -> bytes:
    """Read a body that is declared as JSON, of at most `limit` bytes.

    Raises:
        WrongContentType: it is not declared, or compressed, as nothing is unpacked here.
        BodyTooLarge
    """
    content_type = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise WrongContentType("the body has to be declared as `Content-Type: application/json`")
    if http.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise WrongContentType("the body has to come without `Content-Encoding`")
    return await _read(http, limit)


async def _read(http: Request, limit: int) -> bytes:
    declared = http.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        raise BodyTooLarge(f"the body may have at most {limit} bytes")
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(f"the body may have at most {limit} bytes")
    return bytes(body)


def parse_chat_request(body: bytes) -> ChatRequest:
    """Check the body of a chat request. Raises BadRequest."""
    return parse_request(ChatRequest, body, REFUSED)


def parse_request(model: type[Model], body: bytes, refused: Mapping[str, str]) -> Model:
    """Check a body; what is `refused` is so with the reason that stands there.

    Raises:
        BadRequest: it names the first field that is wrong.
    """
    raw = parse_json(body)
    if not isinstance(raw, dict):
        raise BadRequest("the body has to be a JSON object")
    for name in raw:
        if name in refused and raw[name] is not None:
            raise BadRequest(f"`{name}` is not supported: {refused[name]}", param=name)
    body = body if raw.keys().isdisjoint(refused) else to_json(_without(raw, refused))
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise bad_field(error, raw, known=model.model_fields) from None


def parse_json(body: bytes) -> Any:
    """Parse JSON as the standard has it, and without a key that comes twice."""
    if body.count(b"{") > MOST_BRACES:  # each may be an object, and takes a call to look through
        raise BadRequest(f"the body holds more than {MOST_BRACES} braces")
    try:
        return json.loads(
            body,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadRequest(f"the body is not JSON: {error.msg} at {where}") from None
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except BadRequest:
        raise
    except ValueError:
        raise BadRequest("the body holds a number with too many digits") from None


def validated(
    model: type[Model], data: Any, place: str, context: Mapping[str, Any] | None = None
) -> Model:
    """Validate a part of the request that only the server's state can check; strict, as JSON."""
    try:
        return model.model_validate_json(to_json(data), strict=True, context=context)
    except ValidationError as error:
        raise bad_field(error, data, place, known=model.model_fields) from None


def bad_field(
    error: ValidationError, data: Any, place: str = "", known: Iterable[str] = ()
) -> BadRequest:
    """Turn a validation error into ours; `data` is what was validated, found at `place`."""
    details = error.errors(include_url=False)
    paths = [_path(detail, data) for detail in details]
    best = 0
    for index, path in enumerate(paths):  # of a union's complaints, the one that came farthest
        if len(path) > len(paths[best]) and path[: len(paths[best])] == paths[best]:
            best = index
    detail, path = details[best], paths[best]
    param = ".".join([place] * bool(place) + [str(part) for part in path]) or None
    return BadRequest(_message(detail, known), param=param)


def _message(detail: ErrorDetails, known: Iterable[str]) -> str:
    if detail["type"] == "json_invalid":
        return "the body is not JSON: " + str(detail["ctx"]["error"])
    if detail["type"] == "missing":
        return "this field is required"
    if detail["type"] != "extra_forbidden":
        return detail["msg"]
    near = get_close_matches(str(detail["loc"][-1])[:_LONGEST_NAME], list(known), n=1)
    return "there is no such field" + (f"; did you mean `{near[0]}`?" if near else "")


def _path(detail: ErrorDetails, data: Any) -> Sequence[str | int]:
    """Return the error's place in what the client sent: pydantic adds the tags of unions."""
    path: list[str | int] = []
    for part in detail["loc"]:
        try:
            data = data[part]
        except (LookupError, TypeError):  # no such place: the tag of a union
            continue
        path.append(part)
    if detail["type"] == "missing":
        path.append(detail["loc"][-1])
    elif detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path.append(detail["ctx"]["discriminator"].strip("'"))
    return path


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise BadRequest("the body has a key twice in one object", param=twice)
    if len(found) > MOST_KEYS:  # each could be an error to tell
        raise BadRequest(f"an object of the body has more than {MOST_KEYS} keys")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise BadRequest("the body holds a number that is too large")
    return number


def _refuse_constant(constant: str) -> NoReturn:
    raise BadRequest(f"the body is not JSON: {constant} is not a JSON number")


def _without(raw: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name not in names}
