"""`/v1/responses`: tell of a response, follow, cancel and delete it, list what it answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from fastapi import FastAPI, Query
from starlette.requests import Request
from starlette.responses import Response

from server.background.journal import follow
from server.background.routes import MOST_EVENTS
from server.background.work import Work, Works
from server.chat import event_stream, json_response
from server.identity import identity_of
from server.openapi import RESPONSE_PATHS
from server.responses.background import KIND, ResponseForm, new_of
from server.responses.creation import create
from server.state import State
from verifiers.errors import BadRequest

MOST = 100
"""Items in one list."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "An error object as OpenAI's."}
}


def add_responses(app: FastAPI) -> None:
    """Add all routes of responses."""
    for path in RESPONSE_PATHS:
        app.add_route(path, create, methods=["POST"])
    for path, method, route in (
        ("/v1/responses/{response_id}", "GET", show),
        ("/v1/responses/{response_id}", "DELETE", delete),
        ("/v1/responses/{response_id}/cancel", "POST", cancel),
        ("/v1/responses/{response_id}/input_items", "GET", list_input),
    ):
        app.add_api_route(path, route, methods=[method], responses=_ERRORS)


async def show(
    http: Request,
    response_id: str,
    stream: bool = False,
    starting_after: Annotated[int, Ge(-1), Le(MOST_EVENTS)] = -1,
) -> Response:
    """Tell of a stored response; one of the background can be followed as a stream."""
    state, work = _state(http), await _find(http, response_id)
    if not stream:
        return json_response(ResponseForm().shown(work))
    if not new_of(work)["background"]:
        raise BadRequest("only background responses can be followed", param="stream")
    works, heartbeat_s = _works(state), state.settings.heartbeat_s
    frames = follow(state.store, works, ResponseForm(), work, starting_after + 1, heartbeat_s)
    return await event_stream(http, frames)


async def cancel(http: Request, response_id: str) -> Response:
    """Stop a background response, whichever server works on it."""
    work = await _find(http, response_id)
    if not new_of(work)["background"]:
        raise BadRequest("only background responses can be cancelled", param="response_id")
    return json_response(ResponseForm().shown(await _works(_state(http)).cancel(work)))


async def delete(http: Request, response_id: str) -> Response:
    """Forget a response; one that is worked on is stopped."""
    await _works(_state(http)).delete(await _find(http, response_id))
    return json_response({"id": response_id, "object": KIND, "deleted": True})


async def list_input(
    http: Request,
    response_id: str,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """List the items that a response answers, those of earlier responses among them."""
    items = (await _find(http, response_id)).value["about"]["input"]
    if order == "desc":
        items = items[::-1]
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise BadRequest(f"the response has no item {after!r}", param="after")
        items = items[places[0] + 1 :]
    page = items[:limit]
    return json_response(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > limit,
        }
    )


async def _find(http: Request, response_id: str) -> Work:
    owner = identity_of(http).owner
    return await _works(_state(http)).find(KIND, response_id, owner, "response_id")


def _works(state: State) -> Works:
    return Works(state.store, state.settings.background)


def _state(http: Request) -> State:
    state: State = http.app.state.forethought
    return state
