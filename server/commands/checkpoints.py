"""`forethought checkpoints`: what was trained, how good it is, and which version is served."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from server.checkpoints.evaluation import points
from server.checkpoints.library import Checkpoint
from server.checkpoints.store import CheckpointError, CheckpointStore, default_root
from server.configuration import ConfigurationError, load_settings
from verifiers.manifest import MANIFEST

app = typer.Typer(no_args_is_help=True, add_completion=False)

Root: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="The store.", show_default="the setting `checkpoints`", file_okay=False),
]
Spec: TypeAlias = Annotated[
    str, typer.Argument(help="NAME (its promoted version) or NAME@VERSION.")
]


@app.callback()
def _checkpoints() -> None:
    """List, check, promote and take back what was trained."""


@app.command("list")
def list_(root: Root = None) -> None:
    """List every checkpoint, the newest of a name last, and what is broken."""
    with _store(root) as store:
        table = _table("Name", "Version", "Kind", "Base model", "Promoted", "Gain", "Created")
        for each in store.checkpoints():
            evaluation = store.evaluation(each)
            table.add_row(
                each.name,
                each.version,
                each.manifest.kind,
                each.manifest.base_model,
                "yes" if each.promoted else "",
                "" if evaluation is None else f"{points(evaluation.gain)} points",
                _created(each),
            )
        broken = store.broken()
        if table.row_count or not broken:
            Console().print(table if table.row_count else f"{store.root} holds no checkpoints.")
    for stranger in broken:
        sys.stderr.write(f"{stranger.path}: {stranger.problem}\n")
    if broken:
        raise typer.Exit(1)


@app.command()
def show(spec: Spec, root: Root = None) -> None:
    """Show a checkpoint's manifest, what the gate measured, and the promotions of its name."""
    with _store(root) as store:
        found = store.find(spec)
        evaluation, history = store.evaluation(found), store.history(found.name)
    console = Console(soft_wrap=True)
    console.print(f"[bold]{found.spec}[/bold]{' (promoted)' if found.promoted else ''}")
    console.print(f"{found.path}\nsha256 {found.sha256}\n", highlight=False)
    _print(console, "Manifest", found.manifest.model_dump(mode="json"))
    if evaluation is None:
        console.print("[bold]Evaluation[/bold]: none yet\n")
    else:
        _print(console, f"Evaluation: {evaluation.figures}", evaluation.model_dump(mode="json"))
    promotions = _table("Promoted", "Version", "Forced", "Taken back")
    for each in history.promotions:
        back = each.rolled_back_at
        promotions.add_row(
            _moment(each.at), each.version, each.reason or "", "" if back is None else _moment(back)
        )
    console.print(promotions)


@app.command()
def verify(
    spec: Annotated[str | None, typer.Argument(help="NAME or NAME@VERSION; default: all.")] = None,
    root: Root = None,
) -> None:
    """Hold every file of a checkpoint, or of all, against its manifest."""
    with _store(root) as store:
        specs = [each.spec for each in store.checkpoints()] if spec is None else [spec]
        problems = [f"{each.path}: {each.problem}" for each in store.broken() if spec is None]
        for each in specs:
            try:
                sys.stdout.write(f"{store.verify(each).spec}: whole\n")
            except CheckpointError as error:
                problems.append(str(error))
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if problems:
        raise typer.Exit(1)


@app.command()
def promote(
    spec: Annotated[str, typer.Argument(help="NAME@VERSION.")],
    force: Annotated[
        bool, typer.Option("--force", help="Overrule the gate; the history tells of it.")
    ] = False,
    root: Root = None,
) -> None:
    """Have NAME mean this version, if its evaluation reaches the recipe's bar."""
    _change(root, lambda store: store.promote(spec, force=force))


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Of the checkpoint.")], root: Root = None
) -> None:
    """Take the last promotion of a name back."""
    _change(root, lambda store: store.rollback(name))


def _change(root: Path | None, change: Callable[[CheckpointStore], Checkpoint]) -> None:
    with _store(root) as store:
        sys.stdout.write(f"{change(store).spec} is promoted\n")


@contextmanager
def _store(root: Path | None) -> Iterator[CheckpointStore]:
    """Open the store; what goes wrong in it is told in a line."""
    try:
        yield CheckpointStore(root or load_settings().checkpoints or default_root())
    except (CheckpointError, ConfigurationError, OSError) as error:
        sys.stderr.write(f"forethought: {error}\n")
        raise typer.Exit(1) from error


def _print(console: Console, title: str, fields: dict[str, Any]) -> None:
    console.print(f"[bold]{title}[/bold]", highlight=False)
    console.print_json(data={key: value for key, value in fields.items() if value is not None})
    console.print()


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _created(checkpoint: Checkpoint) -> str:
    stamp = (checkpoint.path / MANIFEST).stat().st_mtime
    return _moment(datetime.fromtimestamp(stamp).astimezone())


def _moment(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
