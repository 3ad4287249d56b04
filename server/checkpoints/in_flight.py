"""The requests that run now, so that what was replaced is released when none can use it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class InFlight:
    """Knows every HTTP request from its first byte to the end of its answer."""

    def __init__(self) -> None:
        self._running: set[asyncio.Future[None]] = set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request in, for as long as the block lasts."""
        end = asyncio.get_running_loop().create_future()
        self._running.add(end)
        try:
            yield
        finally:
            self._running.discard(end)
            end.set_result(None)

    async def ended(self) -> None:
        """Wait until every request that runs now has ended, whatever comes meanwhile.

        A request looks a name up once, and keeps what it found. So after a change, and this, no
        request has what was there before it.
        """
        if running := set(self._running):
            await asyncio.wait(running)
