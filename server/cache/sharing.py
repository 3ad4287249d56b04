"""Give an order the outcome of an equal one: found in the store, waited for, or made for all.

In this process equal requests wait for one flight. Of the flights of all replicas the one that
holds the claim in the store makes the outcome; if it dies or fails, another takes the claim.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from server.cache.flights import Flight, Landing
from server.cache.outcome import CachedOutcome, CacheStatus, Origin, with_cache, written
from server.cache.shelf import LEASE_S, Shelf
from server.cache.terms import Terms
from server.convert import Order
from server.reply import stage_usage
from server.state import State
from server.store.base import StoreUnavailable
from strategies.base import Outcome
from strategies.budget import Limit
from strategies.events import EventKind
from verifiers.errors import DeadlinePassed, ForethoughtError

Make: TypeAlias = Callable[[], Coroutine[Any, Any, Outcome]]
Notice: TypeAlias = Callable[[CacheStatus], None]

_RENEW_S = LEASE_S / 4
_WAIT_S = LEASE_S / 4
"""Between two signs that an outcome is waited for."""
_FAILURES = 2
"""After so many makings of others that failed, a request makes its own."""
_GRACE_S = 0.5
"""Beyond the deadline: whoever came earlier, and is cut by its own, has an answer just then."""
_TOO_LATE = "the deadline passed while an equal request was being answered"


@dataclass(frozen=True, slots=True)
class Sharing:
    """How one order comes to its outcome."""

    order: Order
    state: State
    terms: Terms
    make: Make
    """Makes the outcome of this order."""
    notice: Notice
    """Is told what it looks like: what is waited for may fail, and then is made here."""

    async def outcome(self) -> CachedOutcome:
        """Find the outcome, wait for it, or make it for all who wait.

        Cancelling it stops what is made where nobody else waits.

        Raises:
            ForethoughtError: as the making does; DeadlinePassed where it was waited for in vain.
        """
        flights = self.state.flights
        name = f"{self.terms.key}:{self.terms.ttl_s}"
        for _ in range(_FAILURES):
            flight = flights.find(name)
            if flight is None:
                landed = await flights.begin(name, self._fly).landing()
                own = landed.cache in ("miss", "unavailable")
                return with_cache(landed.outcome, landed.cache, None if own else landed.origin)
            with suppress(_Failed):
                return await self._join(flight)
        outcome = await self.make()
        return with_cache(outcome, "miss", None)

    async def _join(self, flight: Flight) -> CachedOutcome:
        """Wait for what another request of this process has begun. Raises _Failed."""
        self.notice("shared")
        try:
            async with asyncio.timeout(max(0.0, self._seconds)):
                landed = await flight.landing()
        except TimeoutError:
            raise DeadlinePassed(_TOO_LATE) from None
        except ForethoughtError as error:
            raise _Failed from error
        status: CacheStatus = "hit" if landed.cache == "hit" else "shared"
        return with_cache(landed.outcome, status, landed.origin)

    async def _fly(self, flight: Flight) -> Landing:
        """Do what all flights of all replicas do; the requests that wait may come and go."""
        shelf = Shelf(self.state.store, self.terms.key, self.terms.owner)
        with self.state.in_flight.request():  # what the order found stays, though its client leaves
            try:
                landed = await self._found(shelf)
                self.notice("miss" if landed is None else landed.cache)
                return landed or await self._made(flight, shelf)
            except _StoreAway:
                self.notice("unavailable")
                return await self._made(flight, None)
            finally:
                with suppress(StoreUnavailable):
                    await shelf.release()

    async def _found(self, shelf: Shelf) -> Landing | None:
        """Find the outcome, or wait until it is there; None: the claim is ours, it is to be made.

        Raises:
            _StoreAway, DeadlinePassed
        """
        status: CacheStatus = "hit"
        seen = 0
        try:
            while (found := await shelf.find(self.terms.ttl_s)) is None:
                if await shelf.claim():
                    # Whoever held it before may have made it just now.
                    found = await shelf.find(self.terms.ttl_s)
                    break
                status = "shared"
                self.notice(status)
                if self._seconds <= 0:
                    raise DeadlinePassed(_TOO_LATE)
                seen = await shelf.wait(seen, min(_WAIT_S, self._seconds))
        except StoreUnavailable as error:
            raise _StoreAway from error
        return None if found is None else Landing(found.outcome, status, found.origin)

    async def _made(self, flight: Flight, shelf: Shelf | None) -> Landing:
        """Make the outcome, for as long as anybody waits for it; no shelf: the store is away."""
        flight.make()
        making = asyncio.create_task(self.make())
        try:
            while not await flight.rest(making, _RENEW_S):
                if flight.deserted and not await _awaited(shelf) and flight.deserted:
                    flight.stop()  # ends this task where it waits next
                elif shelf is not None:
                    with suppress(StoreUnavailable):  # without a lease it may be made twice
                        await shelf.claim()
            outcome = making.result()
        finally:
            making.cancel()
            await asyncio.wait((making,))
        origin = self._origin()
        if shelf is not None:
            with suppress(StoreUnavailable):
                await self._keep(shelf, outcome, origin)
        return Landing(outcome, "unavailable" if shelf is None else "miss", origin)

    async def _keep(self, shelf: Shelf, outcome: Outcome, origin: Origin) -> None:
        """Keep what the next one would get too: not what bad luck or a full server has cut."""
        events = self.order.request.events.events
        unlucky = any(event.kind is EventKind.FAILED for event in events)
        if unlucky or outcome.stopped_by is Limit.DEADLINE:
            return
        wire = self.order.wire
        told = written(
            outcome,
            logprobs=bool(wire.logprobs),
            candidates=bool(wire.include and "candidates" in wire.include),
        )
        if len(json.dumps(told)) <= self.state.settings.result_cache.max_bytes:
            await shelf.put(told, origin, self.terms.ttl_s)

    def _origin(self) -> Origin:
        request = self.order.request
        usage = {stage.value: stage_usage(each) for stage, each in request.ledger.usage.items()}
        seconds = round(request.ledger.seconds, 6)
        return Origin(self.order.id, request.prompt_tokens, seconds, usage)

    @property
    def _seconds(self) -> float:
        """How long may be waited still."""
        ledger = self.order.request.ledger
        return ledger.budget.deadline_s - ledger.seconds + _GRACE_S


class _Failed(Exception):
    """What was waited for was not made; its error is the maker's."""


class _StoreAway(Exception):
    """Nobody can tell what was made before, or is being made elsewhere."""


async def _awaited(shelf: Shelf | None) -> bool:
    """Whether another replica waits; one that cannot be asked about does not."""
    if shelf is None:
        return False
    try:
        return await shelf.awaited()
    except StoreUnavailable:
        return False
