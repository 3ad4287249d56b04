"""The endpoints that a batch's lines may ask, and how a line is answered without HTTP."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from pydantic_core import to_json

from server.answering import answer
from server.body import parse_chat_request
from server.completions.routes import answer_completion
from server.identity import Identity
from server.responses.creation import answer_response
from server.state import State
from strategies.inner import unalias
from verifiers.errors import BadRequest
from verifiers.types import JSONObject

Answerer: TypeAlias = Callable[[bytes, State, Identity, str | None], Awaitable[dict[str, Any]]]

_WITH_STRATEGY = re.compile(r"/v1/([^/]+)(/chat/completions|/responses)")


class Endpoint(NamedTuple):
    """What a line's URL asks for."""

    path: str
    """Without the strategy that the URL names."""
    strategy: str | None


async def _chat(
    body: bytes, state: State, identity: Identity, strategy: str | None
) -> dict[str, Any]:
    return await answer(parse_chat_request(body), state, identity, strategy)


async def _completion(
    body: bytes,
    state: State,
    identity: Identity,
    strategy: str | None,  # noqa: ARG001
) -> dict[str, Any]:
    return await answer_completion(body, state, identity)


ANSWERERS: Mapping[str, Answerer] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": answer_response,
}


def endpoint_of(url: str, state: State) -> Endpoint | None:
    """Find what a URL asks for; None where no line may ask it."""
    if url in ANSWERERS:
        return Endpoint(url, None)
    found = _WITH_STRATEGY.fullmatch(url)
    if found is None or unalias(found[1]) not in state.strategies:
        return None
    return Endpoint(f"/v1{found[2]}", found[1])


def belongs(url: str, endpoint: str) -> bool:
    """Say whether a line of this URL may be in a batch of that endpoint.

    One that names no strategy may have lines that do.
    """
    found = _WITH_STRATEGY.fullmatch(url)
    return url == endpoint or (found is not None and endpoint == f"/v1{found[2]}")


async def answer_line(
    url: str, body: JSONObject, state: State, identity: Identity
) -> dict[str, Any]:
    """Answer a line; raises ForethoughtError as its endpoint does."""
    endpoint = endpoint_of(url, state)
    if endpoint is None:
        raise BadRequest(f"{url} is not served to batches", param="url")
    for name in ("stream", "background"):
        if body.get(name):
            raise BadRequest("a line of a batch is answered whole, in the batch's file", param=name)
    return await ANSWERERS[endpoint.path](to_json(body), state, identity, endpoint.strategy)
