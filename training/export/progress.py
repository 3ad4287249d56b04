"""How an export goes, on standard error, and what came of it, as a table."""

from __future__ import annotations

from rich import progress
from rich.console import Console
from rich.table import Table

from training.export.pipeline import Report


class Bars:
    """A bar for each piece of work; where standard error is no terminal, nothing."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: progress.TaskID | None = None

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, work: str, total: int) -> None:
        """Open a bar."""
        self._task = self._progress.add_task(work, total=total)

    def advance(self) -> None:
        """Move the last one."""
        assert self._task is not None, "`start` comes first"
        self._progress.advance(self._task)


def report_table(report: Report) -> Table:
    """Say what was read, left out and written."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    for name, count in report.read.items():
        table.add_row("read", f"{count:,}", name)
    for reason, count in sorted(report.dropped.items(), key=lambda item: (-item[1], item[0])):
        table.add_row("left out", f"{count:,}", reason)
    for name, side in report.written.items():
        what = f"{report.kind} of {side['problems']:,} problems in {name}.jsonl.gz"
        table.add_row("written", f"{side['rows']:,}", what)
    return table
