"""Batches across requests: what several ask for at about the same time is one piece of work."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from verifiers.errors import VerifierError, VerifierUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Item, Result]):
    """An item that somebody waits for."""

    item: Item
    result: asyncio.Future[Result] = field(compare=False)


Entries: TypeAlias = Sequence[_Entry[Item, Result]]


class Batcher(Generic[Item, Result]):
    """Collects items until a batch is full or the first of them has waited `wait_s`.

    First come, first served. A batch that fails is halved until the item is alone that cannot be
    worked on, so that it fails nobody else's; only where what works is away altogether, all fail
    at once. Who is cancelled takes its items along; a batch that nobody waits for is cancelled.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        size: int,
        wait_s: float,
        parallel: int = 1,
    ) -> None:
        """`work` gives a result per item, in order, or raises VerifierError for all of them.

        At most `parallel` batches of at most `size` items run at once.
        """
        self._work = work
        self._size = size
        self._wait_s = wait_s
        self._parallel = parallel
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._running: dict[asyncio.Task[None], Entries[Item, Result]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = False
        """Whether what waits has waited long enough."""

    async def run(self, items: Sequence[Item]) -> list[Result]:
        """Return the results in order. Raises VerifierError where one of the items fails."""
        loop = asyncio.get_running_loop()
        entries: list[_Entry[Item, Result]] = [_Entry(item, loop.create_future()) for item in items]
        self._waiting.extend(entries)
        if self._timer is None and entries:
            self._timer = loop.call_later(self._wait_s, self._time_is_up)
        self._start()
        try:
            return [await entry.result for entry in entries]
        finally:
            self._forget(entries)

    async def aclose(self) -> None:
        """Cancel all work; who still waits for it gets VerifierUnavailable."""
        if self._timer is not None:
            self._timer.cancel()
        _fail(self._waiting, VerifierUnavailable("the verifier is closed"))
        self._waiting.clear()
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _time_is_up(self) -> None:
        self._timer = None
        self._due = True
        self._start()

    def _start(self) -> None:
        """Start what is full or due, as far as there is room."""
        while self._waiting and len(self._running) < self._parallel:
            if not self._due and len(self._waiting) < self._size:
                return
            count = min(self._size, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            task = asyncio.create_task(self._settle(batch))
            self._running[task] = batch
            task.add_done_callback(self._ended)
        self._due = bool(self._due and self._waiting)

    async def _settle(self, batch: Entries[Item, Result]) -> None:
        """Work on a batch; where that fails, on each half of it."""
        batch = [entry for entry in batch if not entry.result.done()]
        if not batch:
            return
        try:
            results = await self._work([entry.item for entry in batch])
        except VerifierUnavailable as error:
            _fail(batch, error)
        except VerifierError as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            middle = len(batch) // 2
            await self._settle(batch[:middle])
            await self._settle(batch[middle:])
        else:
            for entry, result in zip(batch, results, strict=True):
                if not entry.result.done():
                    entry.result.set_result(result)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Start the next batch: what waited for room has waited long enough."""
        batch = self._running.pop(task)
        if task.cancelled():
            _fail(batch, VerifierUnavailable("the verifier is closed"))
        elif (error := task.exception()) is not None:
            _fail(batch, error)
        self._due = True
        self._start()

    def _forget(self, entries: Entries[Item, Result]) -> None:
        """Take entries back that nobody waits for any more."""
        for entry in entries:
            if not entry.result.cancel() and not entry.result.cancelled():
                entry.result.exception()  # marks it as seen: of several one has been raised
        self._waiting = deque(each for each in self._waiting if not each.result.done())
        for task, batch in self._running.items():
            if all(entry.result.cancelled() for entry in batch):
                task.cancel()


def _fail(batch: Iterable[_Entry[Item, Result]], error: BaseException) -> None:
    for entry in batch:
        if not entry.result.done():
            entry.result.set_exception(error)
