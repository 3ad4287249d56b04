"""The `forethought` command: every subcommand is an entry point of the group below.

So the server never imports what brings a subcommand (training, load tests), and a subcommand is
imported when it is run or described, not before.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

GROUP = "forethought.commands"


class EntryPointGroup(TyperGroup):
    """A group whose commands are entry points: plain functions, or typer apps as sub-groups."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Name all subcommands that are installed."""
        return sorted(entry.name for entry in entry_points(group=GROUP))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Import one subcommand."""
        for entry in entry_points(group=GROUP, name=cmd_name):
            return _command(entry)
        return None


def _command(entry: EntryPoint) -> Any:
    target = entry.load()
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(add_completion=False)
        target.command(entry.name)(function)
    command = get_command(target)
    command.name = entry.name
    return command


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"forethought {version('forethought')}\n")
        raise typer.Exit


app = typer.Typer(cls=EntryPointGroup, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _forethought(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Ask once, think N times, get one better answer."""
