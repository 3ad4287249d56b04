"""Work that is kept running: who starts when, what is lost, and what is raised."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from strategies.concurrency import keep_busy
from verifiers.errors import BudgetSpent, EngineError, EngineUnavailable


class Work:
    """Pieces that take some hundredths of a second, or fail."""

    def __init__(self, *pieces: float | Exception) -> None:
        self.pieces = list(enumerate(pieces))
        self.story: list[str] = []

    def start(self) -> Coroutine[Any, Any, int] | None:
        if not self.pieces:
            return None
        number, piece = self.pieces.pop(0)
        self.story.append(f"+{number}")
        return self.do(number, piece)

    async def do(self, number: int, piece: float | Exception) -> int:
        if isinstance(piece, Exception):
            raise piece
        await asyncio.sleep(piece / 50)
        return number

    def take(self, number: int) -> None:
        self.story.append(str(number))


async def test_a_slow_piece_holds_nobody_up() -> None:
    work = Work(5, 1, 1, 1)
    await keep_busy(work.start, work.take, 2)
    assert work.story == ["+0", "+1", "1", "+2", "2", "+3", "3", "0"]


async def test_in_waves_all_end_before_others_start() -> None:
    work = Work(3, 1, 1, 2)
    await keep_busy(work.start, work.take, 3, in_waves=True)
    assert work.story == ["+0", "+1", "+2", "0", "1", "2", "+3", "3"]


async def test_what_could_not_start_is_asked_for_again() -> None:
    work = Work(1, 1)
    later = [False, True]

    def start() -> Coroutine[Any, Any, int] | None:
        if len(work.pieces) == 1 and not later.pop(0):
            return None
        return work.start()

    await keep_busy(start, work.take, 2)
    assert work.story == ["+0", "0", "+1", "1"]


async def test_what_fails_or_cannot_be_paid_costs_itself() -> None:
    work = Work(EngineError("lost"), 1, BudgetSpent("tokens"))
    await keep_busy(work.start, work.take, 1)
    assert work.story == ["+0", "+1", "1", "+2"]


async def test_where_everything_failed_the_first_error_is_raised() -> None:
    work = Work(EngineUnavailable("down"), BudgetSpent("tokens"), EngineError("lost"))
    with pytest.raises(EngineUnavailable):
        await keep_busy(work.start, work.take, 3, in_waves=True)


async def test_other_errors_stop_everything() -> None:
    work = Work(50, KeyError("a fault of ours"))
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(keep_busy(work.start, work.take, 2), 0.5)
    assert work.story == ["+0", "+1"]
