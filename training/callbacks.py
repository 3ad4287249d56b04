"""What watches a run: progress on the terminal, the log, whole states, numbers that are numbers."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

LOG = "log.jsonl"
WHOLE = "whole"
"""A file in a state's directory, written last: without it the state is not resumed from."""
_SHOWN = ("loss", "reward", "kl", "accuracy")


class TrainingDiverged(RuntimeError):
    """A loss or a gradient is no number any more; nothing was published."""


class Log(TrainerCallback):
    """Append what the trainer logs to `log.jsonl`: a line for each step, in order of writing.

    A resumed run repeats the steps behind its state: of equal steps the last line counts.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOG

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Write one line."""
        if state.is_world_process_zero and logs:
            append(self._path, state.global_step, logs)


class StopAtNaN(TrainerCallback):
    """End the run as soon as its loss or its gradient is no number."""

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Look at what is logged. Raises TrainingDiverged."""
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(float(value)):
                raise TrainingDiverged(
                    f"step {state.global_step}: {name} is {value}: lower the learning rate, or "
                    f"look at the rows of this step; resuming begins before it"
                )


class WholeStates(TrainerCallback):
    """Mark a state as whole once all of its files are on the disk."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Write the mark."""
        directory = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if not state.is_world_process_zero or not directory.exists():
            return
        for path in directory.rglob("*"):
            if path.is_file():
                _flush(path)
        (directory / WHOLE).touch()
        _flush(directory)


class Bar(TrainerCallback):
    """Show steps, time and the newest numbers on the terminal."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
        )

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Begin at the step that is resumed from."""
        self._progress.disable = not state.is_world_process_zero
        self._progress.start()
        self._task = self._progress.add_task(
            self._name, total=state.max_steps, completed=state.global_step, numbers=""
        )

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Move on."""
        self._progress.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Show the newest numbers."""
        numbers = _numbers(logs or {})
        text = "  ".join(f"{name} {numbers[name]:.4g}" for name in _SHOWN if name in numbers)
        if text:
            self._progress.update(self._task, numbers=text)

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Leave the terminal to others."""
        self.close()

    def close(self) -> None:
        """Stop drawing; the run may have ended by an error."""
        self._progress.stop()


def last_whole_state(directory: Path) -> Path | None:
    """Find the newest state to resume from; one that was cut off while written is passed over."""
    states = [path.parent for path in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{WHOLE}")]
    return max(states, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def remove_torn_states(directory: Path, keep: Path | None) -> None:
    """Remove states that were cut off while written: a trainer would count them."""
    newest = -1 if keep is None else int(keep.name.rpartition("-")[2])
    for path in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if int(path.name.rpartition("-")[2]) > newest:
            shutil.rmtree(path)


def append(path: Path, step: int, logs: Mapping[str, Any]) -> None:
    """Append a line to a log: the numbers among `logs`, with step and time."""
    row = {"step": step, "time": time.time(), **_numbers(logs)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in logs.items() if isinstance(value, int | float)}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
