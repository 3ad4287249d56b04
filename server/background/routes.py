"""`/v1/background/{id}`: tell of a background request, follow it, cancel and delete it."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Le
from fastapi import FastAPI, Query
from starlette.requests import Request
from starlette.responses import Response

from server.background.chat import KIND, ChatForm
from server.background.journal import follow
from server.background.work import Work, Works
from server.chat import event_stream, json_response
from server.identity import identity_of
from server.state import State
from verifiers.errors import BadRequest

MOST_EVENTS = 2**53
"""More than a stream ever has, and what every JSON reader reads exactly."""
LAST_EVENT = "last-event-id"
_ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "An error object as OpenAI's."}
}

After = Annotated[int, Ge(0), Le(MOST_EVENTS), Query(description="The last event that is known.")]


def add_background(app: FastAPI) -> None:
    """Add all routes of background requests; they begin as chat requests."""
    for path, method, route in (
        ("/v1/background/{work_id}", "GET", show),
        ("/v1/background/{work_id}", "DELETE", delete),
        ("/v1/background/{work_id}/events", "GET", events),
        ("/v1/background/{work_id}/cancel", "POST", cancel),
    ):
        app.add_api_route(path, route, methods=[method], responses=_ERRORS)


async def show(http: Request, work_id: str) -> Response:
    """Tell how far a background request is, with the completion once there is one."""
    return json_response(ChatForm().shown(await _find(http, work_id)))


async def events(http: Request, work_id: str, after: After = 0) -> Response:
    """Send the events behind `after`, or behind the header `Last-Event-ID`, and those to come."""
    state, work = _state(http), await _find(http, work_id)
    known, heartbeat_s = last_event(http, after), state.settings.heartbeat_s
    frames = follow(state.store, _works(state), ChatForm(), work, known, heartbeat_s)
    return await event_stream(http, frames)


async def cancel(http: Request, work_id: str) -> Response:
    """Stop a background request, whichever server works on it."""
    works = _works(_state(http))
    return json_response(ChatForm().shown(await works.cancel(await _find(http, work_id))))


async def delete(http: Request, work_id: str) -> Response:
    """Forget a background request; one that runs is stopped."""
    await _works(_state(http)).delete(await _find(http, work_id))
    return json_response({"id": work_id, "object": KIND, "deleted": True})


def last_event(http: Request, after: int) -> int:
    """Return the number of the last event that the client has. Raises BadRequest."""
    told = http.headers.get(LAST_EVENT, "")
    if not told:
        return after
    if not (told.isascii() and told.isdigit() and len(told) < 16):
        raise BadRequest("it is the number of an event", param=LAST_EVENT)
    return int(told)


async def _find(http: Request, work_id: str) -> Work:
    return await _works(_state(http)).find(KIND, work_id, identity_of(http).owner, "work_id")


def _works(state: State) -> Works:
    return Works(state.store, state.settings.background)


def _state(http: Request) -> State:
    state: State = http.app.state.forethought
    return state
