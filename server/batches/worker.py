"""What a replica does for batches: one crew answers lines, another looks after batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.batches.batch import LINES, STEPS
from server.batches.line_work import LineWork
from server.batches.steps import Steps
from server.crew import Crew, Terms
from server.state import State

_WITHOUT_END = 1_000_000_000
"""A batch is looked after however often its replica is killed."""

_log = logging.getLogger("forethought.batches")


def crews(state: State) -> tuple[Crew, Crew]:
    """Make both crews."""
    chosen = state.settings.batches
    terms = Terms(LINES, chosen.lease_s, chosen.attempts, chosen.poll_s, chosen.backoff_s)
    looking = Terms(STEPS, chosen.lease_s, _WITHOUT_END, chosen.poll_s, chosen.backoff_s)
    lines, steps = LineWork(state, terms), Steps(state)
    jobs = state.store.jobs
    return Crew(jobs, terms, lines, lines.room), Crew(jobs, looking, steps, steps.room)


@asynccontextmanager
async def working(state: State) -> AsyncIterator[None]:
    """Work on batches while the block lasts, unless the settings leave it to others."""
    tasks = []
    if state.settings.role != "server":
        tasks = [asyncio.create_task(crew.run()) for crew in crews(state)]
    for task in tasks:
        task.add_done_callback(_tell)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.critical("batches are not worked on here any more", exc_info=error)
