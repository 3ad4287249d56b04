"""Work side by side under a budget: what cannot be paid, or fails alone, is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from verifiers.concurrency import task_group
from verifiers.errors import BudgetSpent, EngineError

Result = TypeVar("Result")


async def affordable(work: Coroutine[Any, Any, Result]) -> list[Result]:
    """Return the result; nothing where the budget was spent before the work's end."""
    try:
        return [await work]
    except BudgetSpent:
        return []


async def keep_busy(
    start: Callable[[], Coroutine[Any, Any, Result] | None],
    take: Callable[[Result], None],
    parallel: int,
    *,
    in_waves: bool = False,
) -> None:
    """Keep up to `parallel` pieces of work running until there is nothing left to start.

    `start` gives the next piece, or None where none can start now: it is asked again whenever one
    has ended. `take` gets each result as it comes; only these two change what they share, so
    there is nothing to lock. What cannot be paid gives no result, what fails costs itself.

    Args:
        start: makes the next piece of work.
        take: takes a result in.
        parallel: the most pieces at once.
        in_waves: start only when all have ended, and take in the order of starting: then nothing
            depends on which piece ends first.

    Raises:
        EngineError: pieces failed and none gave a result.
    """
    running: list[asyncio.Task[list[Result]]] = []
    errors: list[EngineError] = []
    moment = asyncio.ALL_COMPLETED if in_waves else asyncio.FIRST_COMPLETED
    taken = 0
    async with task_group() as group:
        while True:
            while len(running) < parallel and (work := start()) is not None:
                running.append(group.create_task(lossy(work, errors)))
            if not running:
                break
            ended, _ = await asyncio.wait(running, return_when=moment)
            results = [task.result() for task in running if task in ended]
            running = [task for task in running if task not in ended]
            for result in (each for some in results for each in some):
                taken += 1
                take(result)
    if errors and not taken:
        raise errors[0]


async def lossy(work: Coroutine[Any, Any, Result], errors: list[EngineError]) -> list[Result]:
    """Return the result; nothing, and a note in `errors`, where an engine failed before it."""
    try:
        return await affordable(work)
    except EngineError as error:
        errors.append(error)
        return []
