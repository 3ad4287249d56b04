"""`forethought evaluate CHECKPOINT`: hold a checkpoint against its parent through the API."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from server.checkpoints.library import CheckpointError
from server.checkpoints.store import CheckpointStore, default_root
from server.models import ModelError, TerminalProgress
from verifiers.errors import EngineError


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="NAME@VERSION, or NAME: what is promoted.")],
    task: Annotated[str | None, typer.Option(help="NAME or NAME:ARGUMENT of the bench.")] = None,
    pool: Annotated[
        list[str] | None, typer.Option(help="Of verifiers: replies to score, a directory.")
    ] = None,
    parent: Annotated[
        str | None, typer.Option(help="Model to gain on. Default: what it was trained from.")
    ] = None,
    problems: Annotated[int | None, typer.Option(min=1, help="How many; default all.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Of each problem.")] = None,
    strategy: Annotated[str | None, typer.Option(help="A name, or JSON with parameters.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of a reply.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of problems and samples.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other key of the gate; JSON."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Where answers are kept. Default: runs/evaluations/CHECKPOINT."),
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
    """Measure a checkpoint, print the figures, and keep them for `checkpoints promote`.

    The settings are the table `gate` of its recipe, with the options laid over them. Interrupted,
    the same command goes on. A policy is held against its parent, problem by problem; a verifier
    chooses among the replies of a pool.
    """
    from training.data import DataError
    from training.evaluation.evaluate import EVALUATION, EvaluationFailed
    from training.evaluation.evaluate import evaluate as measure
    from training.evaluation.gate import gate_of
    from training.evaluation.table import evaluation_table

    named = {
        "task": task,
        "pool": pool or None,
        "parent": parent,
        "problems": problems,
        "samples": samples,
        "strategy": None if strategy is None else _value(strategy),
        "temperature": temperature,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    changes = {key: value for key, value in named.items() if value is not None}
    store = CheckpointStore(root or default_root())
    try:
        found = store.find(checkpoint)
        gate = gate_of(found.manifest.config, {**changes, **dict(_pairs(set_ or ()))})
        place = work or Path("runs") / "evaluations" / found.spec
        evaluation = measure(found, gate, store, directory=place, progress=TerminalProgress())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, ("gate", *fault["loc"])))
        raise _failed(f"{where}: {fault['msg'].removeprefix('Value error, ')}") from error
    except (CheckpointError, DataError, EngineError, EvaluationFailed, ModelError) as error:
        raise _failed(str(error)) from error
    Console().print(evaluation_table(evaluation))
    sys.stderr.write(f"{place / EVALUATION}\n")


def _failed(message: str) -> typer.Exit:
    sys.stderr.write(f"forethought: {message}\n")
    return typer.Exit(1)


def _pairs(said: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for pair in said:
        key, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair}: not KEY=VALUE")
        yield key, _value(text)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
