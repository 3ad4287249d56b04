"""`/v1/traces`: what is kept of a client's own runs; the scope `admin` has everybody's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from annotated_types import Ge, Le, MaxLen
from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from server.chat import json_response
from server.errors import NotFound
from server.identity import Identity, identity_of
from server.state import State
from server.traces.base import Filter, Summary, Traces


class TraceQuery(BaseModel):
    """Which traces are listed, and how many of them at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strategy: Annotated[str, MaxLen(256)] | None = None
    min_agreement: Annotated[float, Ge(0), Le(1)] | None = None
    max_agreement: Annotated[float, Ge(0), Le(1)] | None = None
    min_tokens: Annotated[int, Ge(0), Le(2**62)] | None = Field(None, description="Generated.")
    max_tokens: Annotated[int, Ge(0), Le(2**62)] | None = None
    after: Annotated[str, MaxLen(256)] | None = Field(
        None, description="The last trace that was seen."
    )
    limit: Annotated[int, Ge(1), Le(100)] = 20


async def list_traces(http: Request, query: Annotated[TraceQuery, Query()]) -> Response:
    """List traces, the newest first."""
    state: State = http.app.state.forethought
    wanted = Filter(_whose(identity_of(http)), **query.model_dump(exclude={"after", "limit"}))
    found = await _kept(state).page(wanted, after=query.after, limit=query.limit + 1)
    shown = found[: query.limit]
    return json_response(
        {
            "object": "list",
            "data": [_listed(each) for each in shown],
            "first_id": shown[0].id if shown else None,
            "last_id": shown[-1].id if shown else None,
            "has_more": len(found) > len(shown),
        }
    )


async def show_trace(http: Request) -> Response:
    """Show what a request did, event by event."""
    state: State = http.app.state.forethought
    trace_id = http.path_params["trace_id"]
    return json_response(await load_trace(state, identity_of(http), trace_id))


async def delete_trace(http: Request) -> Response:
    """Delete a trace, its texts too."""
    state: State = http.app.state.forethought
    trace_id = http.path_params["trace_id"]
    if not await _kept(state).delete(trace_id, _whose(identity_of(http))):
        raise NotFound(f"there is no trace {trace_id!r}")
    return json_response({"id": trace_id, "object": "trace", "deleted": True})


async def load_trace(
    state: State, identity: Identity, trace_id: str, param: str | None = None
) -> dict[str, Any]:
    """Read a stored trace; `param` is the field that names it. Raises NotFound."""
    traces = _kept(state, param)
    trace = None
    if trace_id.isascii():  # all ids are; half of a surrogate pair is nothing to look for
        trace = await traces.load(trace_id, _whose(identity))
    if trace is None:
        raise NotFound(f"there is no trace {trace_id!r}", param=param)
    return trace


def _kept(state: State, param: str | None = None) -> Traces:
    if state.traces is None:
        raise NotFound("this server keeps no traces: see the setting `traces`", param=param)
    return state.traces


def _whose(identity: Identity) -> str | None:
    return None if "admin" in identity.scopes else identity.owner


def _listed(trace: Summary) -> dict[str, Any]:
    return {"object": "trace", **asdict(trace)}
