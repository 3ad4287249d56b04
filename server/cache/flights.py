"""What is being made in this process, so that equal requests wait for one task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeAlias

from server.cache.outcome import CacheStatus, Origin
from strategies.base import Outcome


class Landing(NamedTuple):
    """What a flight came to."""

    outcome: Outcome
    cache: CacheStatus
    """As it is for the request that began the flight."""
    origin: Origin
    """The request that the outcome was made for."""


class Flight:
    """An outcome in the making, and those who wait for it. It is nobody's request alone."""

    def __init__(self, work: Work) -> None:
        self._waiting = 0
        self._left = asyncio.Event()
        self._making = False
        self._task = asyncio.create_task(work(self))

    @property
    def ended(self) -> bool:
        """Whether nobody can join it any more."""
        return self._task.done() or self._task.cancelling() > 0

    @property
    def deserted(self) -> bool:
        """Whether nobody in this process waits for it."""
        return self._waiting == 0

    async def landing(self) -> Landing:
        """Wait for the outcome; being cancelled here leaves the others what they wait for."""
        self._waiting += 1
        self._left.clear()
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if self.deserted:
                self._left.set()
                if not self._making:
                    self._task.cancel()

    def make(self) -> None:
        """Say that work has begun: from now on the task itself decides what a desertion means."""
        self._making = True

    def stop(self) -> None:
        """Give it up."""
        self._task.cancel()

    async def rest(self, work: asyncio.Task[Any], seconds: float) -> bool:
        """Wait for the work, for everybody's leaving, or so long; say whether the work is done."""
        if self.deserted:  # that is no news any more
            await asyncio.wait((work,), timeout=seconds)
            return work.done()
        left = asyncio.create_task(self._left.wait())
        try:
            await asyncio.wait((work, left), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
        return work.done()

    async def end(self) -> None:
        """Stop it, and wait until it has stopped."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    def when_done(self, call: Callable[[asyncio.Task[Landing]], None]) -> None:
        """Call when it has come to an end."""
        self._task.add_done_callback(call)


Work: TypeAlias = Callable[[Flight], Coroutine[Any, Any, Landing]]


class Flights:
    """The flights of one process, by what they make."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}

    @property
    def count(self) -> int:
        """How many are under way."""
        return len(self._flights)

    def find(self, name: str) -> Flight | None:
        """Return the one that can be joined."""
        flight = self._flights.get(name)
        return None if flight is None or flight.ended else flight

    def begin(self, name: str, work: Work) -> Flight:
        """Begin one, in the place of one that has ended."""
        flight = self._flights[name] = Flight(work)
        flight.when_done(lambda task: self._landed(name, flight, task))
        return flight

    async def aclose(self) -> None:
        """Stop all."""
        for flight in list(self._flights.values()):
            await flight.end()

    def _landed(self, name: str, flight: Flight, task: asyncio.Task[Landing]) -> None:
        if self._flights.get(name) is flight:
            del self._flights[name]
        if not task.cancelled():
            task.exception()  # told to those who waited: nobody else need hear of it
