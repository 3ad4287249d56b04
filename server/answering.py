"""An order, answered: what every way of asking has in common, with HTTP or without.

answer      from the body of a request to that of its answer
perform     from an order to its outcome: of its own run, or of an equal order's
_run        the run itself: the key pays, costs are counted, events are kept, however it ends
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from server.cache.outcome import CacheStatus
from server.cache.sharing import Notice, Sharing
from server.cache.terms import cache_terms
from server.convert import Order, describe, dry_run, take_order
from server.identity import Identity
from server.quotas import spending
from server.reply import completion
from server.state import State
from server.telemetry.base import Run
from server.traces.recording import check_trace, keep
from server.wire import ChatRequest
from strategies.base import Outcome, run


async def answer(
    wire: ChatRequest,
    state: State,
    identity: Identity,
    strategy: str | None = None,
    received: float | None = None,
) -> dict[str, Any]:
    """Answer a chat request whole, whatever it says of streaming; a dry run with its worst case.

    Cancelling the task stops the work.

    Args:
        wire: the request's body.
        state: what the server holds.
        identity: who asks, and pays.
        strategy: the one that the URL names.
        received: when, by `time.monotonic()`; the deadline counts from then. Default: now.

    Raises:
        ForethoughtError: what the client is to be told.
    """
    received = time.monotonic() if received is None else received
    order = await take_order(wire, state, strategy, received, identity=identity)
    if wire.dry_run:
        return dry_run(order)
    return completion(order, await perform(order, state, identity))


def unnoticed(status: CacheStatus) -> None:
    """Do nothing about what the cache finds."""


async def perform(
    order: Order, state: State, identity: Identity, notice: Notice = unnoticed
) -> Outcome:
    """Run the strategy, or give what an equal order came to where the cache may be asked.

    `notice` is told what the cache finds, before there is an outcome; the last word counts.
    """
    check_trace(order.wire.trace, state)
    make = partial(_run, order, state, identity)
    terms = cache_terms(order, state, identity)
    if terms is None:
        return await make()
    outcome = await Sharing(order, state, terms, make, notice).outcome()
    notice(outcome.cache)
    state.metrics.cache(outcome.cache)
    return outcome


async def _run(order: Order, state: State, identity: Identity) -> Outcome:
    judged_by = order.judge.name
    told = Run(
        order.id,
        order.name,
        order.model,
        judged_by,
        order.request,
        order.sampling,
        order.n,
    )
    async with spending(order, identity, state):
        try:
            with state.tracing.run(told):
                return await run(order.strategy, order.session, order.request)
        finally:
            state.metrics.observe(order.request, order.name, judged_by)
            events = order.request.events.events
            await keep(state, identity, order.id, describe(order), events, order.wire.trace)
