"""Structured concurrency for verifiers: siblings are cancelled together, errors come out bare."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from verifiers.errors import ForethoughtError

Result = TypeVar("Result")


async def together(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run coroutines at the same time and return their results in order.

    Where they fail with errors of ours alone, the first of these is raised.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as failed:
        ours, others = failed.split(ForethoughtError)
        if ours is None or others is not None:
            raise
        raise _first(ours) from None
    return [task.result() for task in tasks]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
