"""Which runs are recorded, by the setting `traces`, a key or a request, and for how long."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from server.identity import Identity
from server.settings import TraceSettings
from server.state import State
from server.store.base import Store, StoreUnavailable
from server.traces.base import Traces
from server.traces.shared import SharedTraces
from server.traces.sqlite import TraceStore
from strategies.events import Event
from verifiers.errors import BadRequest
from verifiers.types import JSONObject

SWEEP_S = 30.0
"""Between two looks at what is too old, or too much."""

_log = logging.getLogger("forethought.traces")


def check_trace(asked: bool | None, state: State) -> None:
    """Refuse a request that asks for a trace where none is kept. Raises BadRequest."""
    if asked and state.traces is None:
        raise BadRequest("this server keeps no traces: see the setting `traces`", param="trace")


async def keep(
    state: State,
    identity: Identity,
    trace_id: str,
    header: JSONObject,
    events: Sequence[Event],
    asked: bool | None = None,
) -> None:
    """Keep a run's events, if it is to be recorded; `asked`: what the request says of it.

    A full disk, or a store that is away, costs the trace, not the answer that was paid for.
    """
    terms = state.settings.traces
    if state.traces is None or terms is None or not _recorded(terms, identity, asked):
        return
    try:
        await state.traces.save(trace_id, header, events, identity.owner)
    except (sqlite3.Error, StoreUnavailable) as error:
        _log.error("%s: the trace is lost: %s", trace_id, error)


@asynccontextmanager
async def opened_traces(terms: TraceSettings | None, store: Store) -> AsyncIterator[Traces | None]:
    """Open what traces are kept in, and sweep it while the block lasts; None: none are kept.

    Raises:
        TraceError: the file cannot be used.
    """
    if terms is None:
        yield None
        return
    traces: Traces = SharedTraces(store, terms.keep_s)
    if terms.file is not None:
        traces = await TraceStore.open(terms.file)
    async with aclosing(traces):
        sweeping = asyncio.create_task(_sweep(traces, terms))
        try:
            yield traces
        finally:
            sweeping.cancel()
            await asyncio.wait([sweeping])


async def _sweep(traces: Traces, terms: TraceSettings) -> None:
    while True:
        try:
            await traces.sweep(terms.keep_s, terms.max_bytes)
        except (sqlite3.Error, StoreUnavailable) as error:
            _log.warning("old traces are not deleted: %s", error)
        await asyncio.sleep(SWEEP_S)


def _recorded(terms: TraceSettings, identity: Identity, asked: bool | None) -> bool:
    if asked is not None:
        return asked
    return terms.record == "all" or identity.owner in terms.keys
