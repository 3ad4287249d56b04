"""`forethought train RECIPE`: from a recipe to a checkpoint in the store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from server.checkpoints.library import CheckpointError
from server.checkpoints.store import CheckpointStore, default_root
from server.models import ModelError, TerminalProgress
from verifiers.errors import ForethoughtError


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file, or the name of one shipped.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Laid over the file; dotted keys."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run. Default: runs/NAME.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            envvar="FORETHOUGHT_CHECKPOINTS",
            help="The checkpoint store.",
            show_default="beside the models",
        ),
    ] = None,
) -> None:
    """Train what a recipe says; interrupted, the same command goes on.

    Also under `accelerate launch -m training`, on several processes and devices.
    """
    from training.adapters.base import AdapterError
    from training.data import DataError
    from training.recipe import RecipeError, read_recipe
    from training.rollouts.base import RolloutError
    from training.stages import StageError, train_all

    console = Console(stderr=True)
    try:
        chosen = read_recipe(
            recipe if recipe.suffix == ".toml" else shipped(recipe.name), set_ or ()
        )
        # Imported late: it brings torch, and a wrong recipe is told without.
        from training.callbacks import TrainingDiverged
        from training.run import RunError

        try:
            train_all(
                chosen,
                out or Path("runs") / chosen.name,
                CheckpointStore(root or default_root()),
                TerminalProgress(),
                console.print,
            )
        except (RunError, TrainingDiverged) as error:
            raise StageError(str(error)) from error
    except (
        RecipeError,
        AdapterError,
        StageError,
        DataError,
        ModelError,
        CheckpointError,
        RolloutError,
        ForethoughtError,
    ) as error:
        sys.stderr.write(f"forethought: {error}\n")
        raise typer.Exit(1) from error


def shipped(name: str) -> Path:
    """Find a recipe that comes with Forethought."""
    return Path(__file__).parents[1] / "recipes" / f"{name}.toml"
