"""`forethought pull` and `forethought models`: what is on this machine, and how to get it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from server.models import ModelError, TerminalProgress, resolve
from server.models.catalogue import read_catalogue
from server.models.store import ModelStore, cache_directory


def pull(
    name: Annotated[
        str | None,
        typer.Argument(help="A catalogue name or a hub id.", show_default="the default model"),
    ] = None,
) -> None:
    """Fetch a model, unless it is here already, and print its directory."""
    try:
        model = resolve(name or read_catalogue().default, TerminalProgress())
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(1) from error
    sys.stdout.write(f"{model.path}\n")


def models() -> None:
    """List the models known by name, and which of them are here."""
    catalogue = read_catalogue()
    store = ModelStore(cache_directory())
    table = Table(box=None, pad_edge=False)
    for title in ("Name", "Licence", "Download", "Here", "Directory"):
        table.add_column(title, overflow="fold")
    for entry in catalogue.entries:
        found = store.find(entry.name, entry)
        name = f"{entry.name} (default)" if entry.name == catalogue.default else entry.name
        table.add_row(
            name,
            entry.licence,
            decimal(entry.mirror.download_size),
            "yes" if found else "no",
            str(found.path) if found else "",
        )
    Console().print(table)
