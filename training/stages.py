"""Run a recipe, or a pipeline's stages one after another, each from where it was left.

A stage with a gate is measured as soon as it is trained, in `evaluation/` of its directory; what
does not reach its bar stops the pipeline. The last checkpoint is promoted if its recipe says so.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from server.checkpoints.evaluation import points
from server.checkpoints.store import Checkpoint, CheckpointStore
from server.models import Progress
from training.evaluation.gate import GateSettings
from training.recipe import STAGE, Pipeline, Recipe

EVALUATION = "evaluation"


class StageError(RuntimeError):
    """A stage ended without a checkpoint, or with one below its bar; the message says why."""


def train_all(
    chosen: Recipe | Pipeline,
    directory: Path,
    store: CheckpointStore,
    progress: Progress,
    say: Callable[[str], None],
) -> Checkpoint:
    """Train every stage that is not done; return the last checkpoint, promoted if it is to be.

    Raises:
        StageError: a stage made none, or one that is not as good as its gate requires.
        CheckpointError: the last one cannot be promoted.
    """
    if isinstance(chosen, Recipe):
        made, last = train_one(chosen, directory, store, progress, say), chosen
    else:
        made, last = _train_stages(chosen, directory, store, progress, say), chosen.stages[-1]
    if last.promote and _is_first():
        made = store.promote(made.spec)
        say(f"{made.spec} is promoted")
    return made


def _train_stages(
    chosen: Pipeline,
    directory: Path,
    store: CheckpointStore,
    progress: Progress,
    say: Callable[[str], None],
) -> Checkpoint:
    done: dict[str, Checkpoint] = {}
    for number, stage in enumerate(chosen.stages, 1):
        say(f"Stage {number} of {len(chosen.stages)}: {stage.name}")
        recipe = _follow(stage, done)
        done[stage.name] = train_one(recipe, directory / stage.name, store, progress, say)
    return done[chosen.stages[-1].name]


def train_one(
    recipe: Recipe,
    directory: Path,
    store: CheckpointStore,
    progress: Progress,
    say: Callable[[str], None],
) -> Checkpoint:
    """Train one recipe, unless its directory holds its result already; measure and report it.

    Raises:
        StageError: it made no checkpoint, or one that is not as good as its gate requires.
    """
    from training.report import write_report
    from training.run import open_run

    run = open_run(recipe, directory, store, progress, say)
    try:
        if run.result is None:
            recipe.method.train(run)
    finally:  # a run that diverged is looked at as well
        if _is_first():
            write_report(directory)
    _wait_for_all()
    if run.result is None:
        raise StageError(f"{recipe.name}: the method published no checkpoint")
    say(f"{run.result.spec}: {run.result.path}")
    if recipe.gate is not None:
        _pass_gate(run.result, recipe.gate, directory, store, progress, say)
    return run.result


def _pass_gate(
    checkpoint: Checkpoint,
    gate: GateSettings,
    directory: Path,
    store: CheckpointStore,
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    """Measure a checkpoint in the first process; go on, in all, if it is good enough."""
    if _is_first():
        import torch

        from training.evaluation.evaluate import EvaluationFailed, evaluate
        from training.report import write_report

        gc.collect()
        torch.cuda.empty_cache()  # the server needs what the trainer had
        try:
            evaluate(checkpoint, gate, store, directory=directory / EVALUATION, progress=progress)
        except EvaluationFailed as error:
            raise StageError(f"{checkpoint.spec}: {error}") from error
        write_report(directory)
    _wait_for_all()
    evaluation = store.evaluation(checkpoint)
    assert evaluation is not None, "it was recorded"
    told = f"{checkpoint.spec}: {evaluation.figures}; the bar is {points(gate.bar)}"
    say(told)
    if gate.required and evaluation.lower < gate.bar:
        raise StageError(f"{told}: nothing goes on from here")


def _is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _wait_for_all() -> None:
    """Wait for the other processes of a distributed run."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def _follow(recipe: Recipe, done: Mapping[str, Checkpoint]) -> Recipe:
    """Put checkpoints where a stage names earlier ones."""

    def followed(named: str) -> str:
        if not named.startswith(STAGE):
            return named
        return f"checkpoint:{done[named.removeprefix(STAGE)].spec}"

    return recipe.with_models(followed)
