"""The part of the admission slots that batches may use, so that clients who wait come first."""

from __future__ import annotations

import asyncio

from strategies.admission import Admission, Ticket


class Share(Admission):
    """A queue of its own for work that can wait; in the whole's queue it is one request of many.

    At most a share of the slots is held at once, fairly between the lines; where clients wait too,
    all lines together have one turn among theirs.
    """

    def __init__(self, whole: Admission, share: float) -> None:
        """Take at most this share of the whole's slots, and at least one of them."""
        slots = max(1, int(whole.slots * share))
        super().__init__(slots, min(slots, whole.per_request), queue_limit=slots)
        self._whole = whole
        self._ticket = Ticket(admitted=True)

    async def acquire(self, ticket: Ticket, wanted: int) -> int:
        """Wait for room in the share, then for slots; return how many samples may start."""
        granted = await super().acquire(ticket, wanted)
        try:
            taken = await self._whole.acquire(self._ticket, granted)
        except asyncio.CancelledError:
            super().release(ticket, granted)
            raise
        self._ticket.running -= taken  # the whole's bound is for a request: each line keeps it here
        super().release(ticket, granted - taken)
        return taken

    def release(self, ticket: Ticket, count: int = 1) -> None:
        """Give `count` slots back."""
        self._ticket.running += count
        self._whole.release(self._ticket, count)
        super().release(ticket, count)
