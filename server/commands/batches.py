"""`forethought batches`: how batches go on, and the lines that failed in all their attempts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, TypeAlias, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from server.batches.batch import Batch, Batches
from server.batches.revival import DeadLine, NotRevived, dead_lines, revive
from server.configuration import ConfigurationError, load_settings
from server.store.base import Store, StoreError, StoreUnavailable, open_store
from server.store.opening import default_url

Result = TypeVar("Result")

app = typer.Typer(no_args_is_help=True, add_completion=False)

_Address: TypeAlias = Annotated[
    str | None, typer.Option("--store", help="Its address.", show_default="the setting `store`")
]


@app.callback()
def _batches() -> None:
    """List batches and their dead lines, and have these worked again."""


@app.command("list")
def list_(
    store: _Address = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest of them.")] = 20,
) -> None:
    """List batches of all keys, the newest first."""

    async def found(store: Store) -> list[Batch]:
        return await Batches(store).page(None, None, limit)

    table = _table("Batch", "Status", "Lines", "Answered", "Failed", "Created", "Owner")
    for each in _with_store(store, found):
        counts = each.request_counts
        table.add_row(
            each.id,
            each.status,
            *(str(count) for count in (counts.total, counts.completed, counts.failed)),
            datetime.fromtimestamp(each.created_at).astimezone().strftime("%Y-%m-%d %H:%M"),
            each.owner,
        )
    Console().print(table if table.row_count else "There are no batches.")


@app.command()
def dead(
    batch: Annotated[str | None, typer.Argument(help="Its id; default: all.")] = None,
    store: _Address = None,
) -> None:
    """List lines that failed in all their attempts, and why in the last."""

    async def found(store: Store) -> list[DeadLine]:
        return [each async for each in dead_lines(store, batch)]

    table = _table("Batch", "Line", "Attempts", "Error")
    for each in _with_store(store, found):
        table.add_row(each.batch_id, each.custom_id, str(each.attempts), each.error)
    Console().print(table if table.row_count else "No line is dead.")


@app.command("revive")
def revive_(batch: Annotated[str, typer.Argument(help="Its id.")], store: _Address = None) -> None:
    """Have a batch's dead lines worked again, with all their attempts."""
    revived = _with_store(store, lambda opened: revive(opened, batch))
    sys.stdout.write(f"{revived.lines} lines wait again; {batch} is {revived.status}\n")


def _with_store(url: str | None, ask: Callable[[Store], Awaitable[Result]]) -> Result:
    """Ask the store; what goes wrong is told in a line."""

    async def asked() -> Result:
        async with aclosing(await open_store(url or load_settings().store or default_url())) as it:
            return await ask(it)

    try:
        return asyncio.run(asked())
    except (ConfigurationError, NotRevived, StoreError, StoreUnavailable) as error:
        sys.stderr.write(f"forethought: {error}\n")
        raise typer.Exit(1) from error


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
