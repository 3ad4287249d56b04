"""Who may generate now: bounded for each request and for the server, fair between requests."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from verifiers.errors import Overloaded


@dataclass(eq=False, slots=True)
class Ticket:
    """One request's place: how many of its samples run, and the waves that wait."""

    running: int = 0
    admitted: bool = False
    queued: float | None = None
    """When it first had to wait, of `time.monotonic()`."""
    waited: float = 0.0
    """Seconds until its first sample was let in."""
    waves: deque[tuple[int, asyncio.Future[int]]] = field(default_factory=deque)


class Admission:
    """Grants waves of samples, round-robin over requests: a `single` passes a best-of-64.

    A wave is granted as far as there is room, so that samples of one prompt start together.
    """

    def __init__(self, slots: int = 64, per_request: int = 64, queue_limit: int = 256) -> None:
        """Allow `slots` samples at once, `per_request` of one request, and a queue of requests."""
        self.slots = slots
        self.per_request = per_request
        self.queue_limit = queue_limit
        self.running = 0
        self._queue: OrderedDict[Ticket, None] = OrderedDict()

    @property
    def queued(self) -> int:
        """Samples that wait for a slot."""
        return sum(wanted for ticket in self._queue for wanted, _ in ticket.waves)

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._queue)

    async def acquire(self, ticket: Ticket, wanted: int) -> int:
        """Wait for room; return how many of the `wanted` samples may start now, at least one.

        Raises:
            Overloaded: the request has done no work yet and the queue of requests is full.
        """
        if not self._queue and (room := self._room(ticket)) > 0:
            return self._grant(ticket, min(wanted, room))
        if not ticket.admitted and len(self._queue) >= self.queue_limit:
            raise Overloaded(f"{self.queue_limit} requests are waiting already; try again")
        granted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        ticket.queued = time.monotonic() if ticket.queued is None else ticket.queued
        ticket.waves.append((wanted, granted))
        self._queue.setdefault(ticket)
        self._serve()
        try:
            return await granted
        except asyncio.CancelledError:
            self._withdraw(ticket, wanted, granted)
            raise

    def release(self, ticket: Ticket, count: int = 1) -> None:
        """Give `count` slots back."""
        ticket.running -= count
        self.running -= count
        self._serve()

    def _room(self, ticket: Ticket) -> int:
        return min(self.slots - self.running, self.per_request - ticket.running)

    def _grant(self, ticket: Ticket, count: int) -> int:
        ticket.running += count
        if not ticket.admitted and ticket.queued is not None:
            ticket.waited = time.monotonic() - ticket.queued
        ticket.admitted = True
        self.running += count
        return count

    def _serve(self) -> None:
        """Grant one wave to each waiting request in turn, until nothing more fits."""
        served = True
        while served:
            served = False
            for ticket in list(self._queue):
                served |= self._serve_one(ticket)

    def _serve_one(self, ticket: Ticket) -> bool:
        room = self._room(ticket)
        if room <= 0:
            return False
        wanted, granted = ticket.waves.popleft()
        if not granted.cancelled():
            granted.set_result(self._grant(ticket, min(wanted, room)))
        del self._queue[ticket]
        if ticket.waves:
            self._queue[ticket] = None
        return True

    def _withdraw(self, ticket: Ticket, wanted: int, granted: asyncio.Future[int]) -> None:
        if not granted.cancelled():  # granted in the moment of the cancellation
            Admission.release(self, ticket, granted.result())  # of this queue alone
        elif (wanted, granted) in ticket.waves:
            ticket.waves.remove((wanted, granted))
            if not ticket.waves:
                del self._queue[ticket]
