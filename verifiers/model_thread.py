"""A model in this process: one worker thread, fed with batches across requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Self, TypeAlias, TypeVar

from verifiers.batching import Batcher

Item = TypeVar("Item")
Result = TypeVar("Result")
Work: TypeAlias = Callable[[Sequence[Item], threading.Event], Sequence[Result]]
"""A result for each item, in order; it may stop early when nobody wants them any more."""

_BATCHES = 4
"""Batches' worth of items that the model is given at a time, to sort them by length."""


class ModelThread(Generic[Item, Result]):
    """Calls a model in the thread that loaded it, and nowhere else."""

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        work: Work[Item, Result],
        batch_size: int,
        wait_s: float,
    ) -> None:
        self._executor = executor
        self._work = work
        self._batcher: Batcher[Item, Result] = Batcher(
            self._run, size=_BATCHES * batch_size, wait_s=wait_s
        )

    @classmethod
    async def load(
        cls, load: Callable[[], Work[Item, Result]], name: str, batch_size: int, wait_s: float
    ) -> Self:
        """Load a model in a thread of this name. Raises what loading raises."""
        executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        try:
            work = await asyncio.get_running_loop().run_in_executor(executor, load)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(executor, work, batch_size, wait_s)

    async def run(self, items: Sequence[Item]) -> list[Result]:
        """Return the results in order, beside whatever other requests ask for."""
        return await self._batcher.run(items)

    async def aclose(self) -> None:
        """Stop after what runs."""
        await self._batcher.aclose()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, items: Sequence[Item]) -> Sequence[Result]:
        unwanted = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, self._work, items, unwanted)
        finally:
            unwanted.set()


def in_batches(
    lengths: Sequence[int], longest: int, size: int, unwanted: threading.Event
) -> Iterator[list[int]]:
    """Yield the places of texts to read together, until nobody wants them any more.

    Texts of about one length, so that padding is little; those that are too long are left out.
    """
    fitting = [place for place, length in enumerate(lengths) if length <= longest]
    fitting.sort(key=lambda place: lengths[place])
    for start in range(0, len(fitting), size):
        if unwanted.is_set():
            return
        yield fitting[start : start + size]
