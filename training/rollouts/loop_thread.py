"""An event loop in a thread of its own: trainers are synchronous, engines and verifiers are not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class LoopThread:
    """Runs coroutines for a synchronous caller, all in one loop, until it is closed."""

    def __init__(self, name: str) -> None:
        self._running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        # A daemon: if the caller dies without closing, the interpreter does not wait for it.
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._loop, self._closing = self._running.result()

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end and return its result; Ctrl-C cancels it."""
        if self.closed:
            work.close()
            raise RuntimeError(f"{self._thread.name} is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """End the loop, and wait for its thread."""
        if not self.closed:
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()

    def _main(self) -> None:
        asyncio.run(self._until_closed())

    async def _until_closed(self) -> None:
        closed = asyncio.Event()
        self._running.set_result((asyncio.get_running_loop(), closed))
        await closed.wait()
