"""How a recording goes, on standard error."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_ROWS = 16


class Bar:
    """A progress bar; where standard error is no terminal, a line now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("rows"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tokens]:,} tokens, {task.fields[speed]:,.0f}/s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            speed_estimate_period=600,
        )
        self._bar = self._progress.add_task("", tokens=0, speed=0.0)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, total: int, todo: int) -> None:
        """Begin with what is recorded already."""
        self._progress.reset(self._bar, total=total, completed=total - todo, tokens=0, speed=0.0)

    def advance(self, rows: int, tokens: int) -> None:
        """Count."""
        task = self._progress.tasks[0]
        tokens += task.fields["tokens"]
        speed = tokens / max(1e-3, task.elapsed or 0)
        self._progress.update(self._bar, advance=rows, tokens=tokens, speed=speed)
        if not self._console.is_terminal and task.completed % _LINE_ROWS == 0:
            done = f"{task.completed:.0f}/{task.total:.0f} rows"
            sys.stderr.write(f"{done}, {tokens:,} tokens, {speed:,.0f} tokens/s\n")
            sys.stderr.flush()

    def warn(self, message: str) -> None:
        """Print above the bar."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)
