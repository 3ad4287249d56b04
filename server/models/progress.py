"""How the store tells people what it is doing: one bar, or line, per stage, on stderr."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeAlias

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

AdvanceTo: TypeAlias = Callable[[int], None]

_log = logging.getLogger("forethought.start")


class Progress(Protocol):
    """Something that shows stages of work."""

    def stage(self, title: str, size: int | None = None) -> AbstractContextManager[AdvanceTo]:
        """Show a stage of `size` bytes (None: unknown) while the block runs.

        The block calls what it gets with the number of bytes done so far.
        """


class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def stage(self, title: str, size: int | None = None) -> Iterator[AdvanceTo]:  # noqa: ARG002
        """Do nothing but run the block."""
        yield lambda _: None


class LoggedProgress:
    """A line of the log per stage."""

    @contextmanager
    def stage(self, title: str, size: int | None = None) -> Iterator[AdvanceTo]:
        """Log that the stage begins."""
        _log.info("%s", title if size is None else f"{title} ({decimal(size)})")
        yield lambda _: None


class TerminalProgress:
    """Bars on a terminal, one line per stage in a log file."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    @contextmanager
    def stage(self, title: str, size: int | None = None) -> Iterator[AdvanceTo]:
        """Show a bar while the block runs."""
        if not self._console.is_terminal:
            self._console.print(title if size is None else f"{title} ({decimal(size)})")
            yield lambda _: None
            return
        columns = [TextColumn("{task.description}"), BarColumn()]
        sized = [] if size is None else [DownloadColumn(), TransferSpeedColumn()]
        with Bars(*columns, *sized, TimeElapsedColumn(), console=self._console) as bars:
            task = bars.add_task(title, total=size)
            yield lambda done: bars.update(task, completed=done)
            if size is None:
                bars.update(task, total=1, completed=1)
            else:
                bars.update(task, completed=size)
