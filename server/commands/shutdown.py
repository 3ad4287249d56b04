"""How `forethought serve` ends: SIGINT and SIGTERM drain it, the second time it ends at once.

notice   `/readyz` says 503 for `drain_notice_s`, so that balancers look elsewhere; all is answered
drain    nobody is let in, and what runs has `drain_s` to end
cut      what still runs is cancelled, and its client told so
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from server.draining import Draining
from server.settings import Settings

_log = logging.getLogger("forethought.end")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CANCEL_SECONDS = 5.0
"""How long requests may take to end once they are cancelled."""


class Shutdown:
    """What SIGINT and SIGTERM do: end the start, later drain the server, the second time at once.

    The engine's own processes do not see a terminal's Ctrl-C: they end when the server has.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._starting = task
        self._server: DrainingServer | None = None
        self.code = 0
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)

    async def serve(self, server: DrainingServer, listener: socket.socket) -> None:
        """Serve until a signal, let running requests end, and cut off those that do not."""
        self._server = server
        await server.serve([listener])
        if tasks := set(server.server_state.tasks):  # cancelled, with their last words to say
            await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._server is None:
            self.code = 128 + number
            self._starting.cancel()
        else:
            self._server.end()


class DrainingServer(uvicorn.Server):
    """Uvicorn, drained in our way; the signals are ours, as it raises them again too early."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        draining: Draining,
        announcement: Callable[[], str],
    ) -> None:
        # Uvicorn's own time-out is left for requests that do not even end when cancelled.
        config.timeout_graceful_shutdown = math.ceil(settings.drain_s + _CANCEL_SECONDS)
        super().__init__(config)
        self._notice_s, self._drain_s = settings.drain_notice_s, settings.drain_s
        self._draining = draining
        self._announcement = announcement

    def end(self) -> None:
        """Begin to drain; the second time, end at once."""
        if self._draining.begun:
            self.should_exit = self.force_exit = True
            self._cut()
            return
        self._draining.begun = True
        if self.server_state.tasks:
            _log.warning("finishing running requests; once more to drop them")
        asyncio.get_running_loop().call_later(self._notice_s, self._stop_listening)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        sys.stdout.write(self._announcement())
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and cut off what has not ended when the time is over."""
        cutting = asyncio.get_running_loop().call_later(self._drain_s, self._cut)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    def _stop_listening(self) -> None:
        self.should_exit = True

    def _cut(self) -> None:
        self._draining.over = True
        for task in self.server_state.tasks:
            task.cancel()
