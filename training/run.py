"""One training run: what a method is given to work with, and what becomes of its result.

The directory of a run:
    recipe.json          the resolved recipe; a run goes on only with the same one
    log.jsonl            a line for each logged step
    checkpoint-STEP/     states to resume from; those with a file `whole` are
    data.json            what was read, and what was wrong with it
    result.json          the checkpoint that came of it
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from loadtests.tasks.discovery import task_named
from server.checkpoints.durable import write_file
from server.checkpoints.store import Checkpoint, CheckpointStore
from server.models import Progress
from training import models
from training.adapters.base import name_base
from training.arguments import trainer_arguments
from training.callbacks import (
    LOG,
    Bar,
    Log,
    StopAtNaN,
    WholeStates,
    append,
    last_whole_state,
    remove_torn_states,
)
from training.data import Complaint, Rows, read_rows
from training.encoding import Encoder, EncodingError
from training.models import Base
from training.recipe import Recipe, differences
from training.reply_heads import only_replies
from training.rewards import Rewards
from training.rollouts.base import Rollouts, open_rollouts
from training.rows import Message, Prompted, Row
from verifiers.calibration import Calibration
from verifiers.manifest import Kind, Manifest, tokenizer_digest

ArgumentsT = TypeVar("ArgumentsT", bound=TrainingArguments)
RECIPE, RESULT, DATA = "recipe.json", "result.json", "data.json"


class RunError(RuntimeError):
    """A run cannot be made or gone on with; the message says why."""


class Run:
    """What a method is given; `open_run` makes it."""

    def __init__(
        self,
        recipe: Recipe,
        directory: Path,
        store: CheckpointStore,
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        self.recipe = recipe
        self.directory = directory
        self.store = store
        self._progress = progress
        self._say = say
        self.base: Base = models.find_base(recipe.model, store, progress)
        self.encoder = Encoder(models.load_tokenizer(self.base.path))

    @property
    def tokenizer(self) -> Any:
        """The policy's tokenizer."""
        return self.encoder.tokenizer

    @cached_property
    def rows(self) -> Sequence[Any]:
        """The rows to train on, of the method's kind."""
        data, wanted = self.recipe.data, self.recipe.method.reads
        if data.task is not None:
            return self._task_rows(data.task)
        found: Rows[Row] = read_rows(
            data.train, wanted, strict=data.strict, check=self.within_context
        )
        told = {
            "files": found.digests,
            "rows": len(found.rows),
            "left_out": found.counts,
            "faults": list(map(str, found.faults)),
        }
        (self.directory / DATA).write_text(json.dumps(told, indent=1) + "\n")
        if found.faults:
            self._say(found.report)
        return found.rows

    @cached_property
    def test_rows(self) -> Sequence[Any]:
        """The rows to measure the loss on; there may be none."""
        data = self.recipe.data
        if not data.test:
            return ()
        rows = read_rows(
            data.test, self.recipe.method.reads, strict=data.strict, check=self.within_context
        )
        return rows.rows

    def policy(self, task: str = "CAUSAL_LM", **arguments: Any) -> Any:
        """Load what is to be trained: the model, or its adapter over a frozen one (peft's model).

        A checkpoint that is an adapter of the same kind is trained further; without `[adapter]`, or
        below a new head, it is merged. `task` is peft's TaskType.
        """
        adapter, dtype = self.recipe.adapter, self.recipe.training.dtype
        if adapter is None:
            return models.load_model(self.base, task=task, dtype=dtype, adapted=False, **arguments)
        further = self.base.adapter if task == "CAUSAL_LM" else None
        base = self.base if further is None else self.base._replace(adapter=None)
        model = models.load_model(
            base, task=task, dtype=dtype, adapted=True, **adapter.load_arguments(), **arguments
        )
        if further is not None:
            return adapter.resume(model, further)
        return adapter.apply(model, task=task, steps=self.recipe.training.max_steps)

    def reference(self) -> PreTrainedModel:
        """Load the frozen policy to compare with: the recipe's `reference`, else its `model`."""
        base = self.base
        if self.recipe.reference is not None:
            base = models.find_base(self.recipe.reference, self.store, self._progress)
        adapted = self.recipe.adapter is not None
        model = models.load_model(base, dtype=self.recipe.training.dtype, adapted=adapted)
        return model.eval().requires_grad_(False)

    def teacher(self) -> PreTrainedModel:
        """Load the recipe's `teacher`, frozen. Raises RunError if it names none."""
        model = models.load_model(self.teacher_base, dtype=self.recipe.training.dtype, adapted=True)
        return model.eval().requires_grad_(False)

    @cached_property
    def teacher_base(self) -> Base:
        """The recipe's `teacher` on the disk. Raises RunError if it names none."""
        if self.recipe.teacher is None:
            raise RunError("this method learns from another model: say `teacher`")
        return models.find_base(self.recipe.teacher, self.store, self._progress)

    def check_tokenizer(self, other: Base) -> None:
        """Raise RunError if another model cuts texts into other tokens than the policy."""
        if tokenizer_digest(other.path) != tokenizer_digest(self.base.path):
            raise RunError(f"{other.name} and {self.base.name} have different tokenizers")

    def arguments(self, cls: Callable[..., ArgumentsT], **own: Any) -> ArgumentsT:
        """Make the trainer's arguments: the recipe's words, `own` of the method laid over them."""
        named = trainer_arguments(self.recipe, self.directory)
        return cls(**{**named, **own, **self.recipe.training.arguments})

    @contextmanager
    def rollouts(self, model: Any) -> Iterator[Rollouts]:
        """Open what replies are drawn from while training; they begin with `model`'s weights."""
        assert self.recipe.rollouts is not None, "the recipe was validated"
        with open_rollouts(self.recipe.rollouts, self.base.path, self.tokenizer, model) as rollouts:
            if self.base.adapter is not None:
                rollouts.refresh(model, 0)
            yield rollouts

    @contextmanager
    def rewards(self, rollouts: Rollouts) -> Iterator[Rewards]:
        """Build the recipe's verifiers; those that ask a model ask the rollouts' engines.

        A verifier's `model` may be `checkpoint:NAME[@VERSION]`, as where verifiers are served.
        """
        wanted = [each.with_models(self._directory) for each in self.recipe.rewards]
        try:
            opened = Rewards(wanted, rollouts)
        except ValueError as error:
            raise RunError(str(error)) from error
        with opened as rewards:
            yield rewards

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append numbers to this run's log, where a method has more to tell than its trainers."""
        if not _first_process():
            return
        append(self.directory / LOG, step, numbers)
        self._say("  ".join(f"{name} {value:.4g}" for name, value in numbers.items()))

    def fit(self, trainer: Trainer) -> None:
        """Train to the end, from the newest whole state if there is one.

        States and log are in the trainer's `output_dir`: this run's directory, or one in it.

        Raises:
            TrainingDiverged: the loss is no number any more.
        """
        directory, bar = Path(str(trainer.args.output_dir)), Bar(self.recipe.name)
        own = () if self.recipe.adapter is None else self.recipe.adapter.callbacks()
        trainer.remove_callback(PrinterCallback)
        for callback in (*own, Log(directory), StopAtNaN(), WholeStates(), bar):
            trainer.add_callback(callback)
        state = last_whole_state(directory)
        remove_torn_states(directory, state)
        try:
            with only_replies():
                trainer.train(resume_from_checkpoint=None if state is None else str(state))
        finally:
            bar.close()

    def publish(
        self,
        model: Any,
        *,
        kind: Kind | None = None,
        metrics: Mapping[str, float] | None = None,
        step_mark: str | None = None,
        calibration: Calibration | None = None,
        save: Callable[[Path], None] | None = None,
        beside: str | None = None,
    ) -> Checkpoint | None:
        """Write weights, or the adapter, tokenizer and manifest, and put them into the store.

        `save` writes the weights into the directory it is given, where `save_pretrained` is not
        what does. `beside` makes it a second checkpoint, NAME-`beside`, and not the run's result.
        Returns None in processes other than the first.
        """
        if not _first_process():
            return None
        adapter = self.recipe.adapter
        name = self.recipe.name if beside is None else f"{self.recipe.name}-{beside}"
        with self.store.draft(name) as draft:
            if save is not None:
                save(draft)
            elif adapter is None:
                model.save_pretrained(draft)
            else:
                adapter.save(model, draft)
            if (draft / models.ADAPTER).exists():
                name_base(draft, self.base.name)
            self.tokenizer.save_pretrained(draft)
            found = kind or self.recipe.method.makes
            adapted = (draft / models.ADAPTER).exists() and adapter is not None and adapter.served
            manifest = Manifest(
                kind="lora" if adapted and found == "policy" else found,
                base_model=self.base.name,
                tokenizer=tokenizer_digest(draft),
                step_mark=step_mark,
                calibration=calibration,
                metrics=dict(metrics or {}),
                config=self.recipe.resolved(),
            )
            checkpoint = self.store.publish(draft, manifest)
        if beside is not None:
            return checkpoint
        result = {"name": checkpoint.name, "version": checkpoint.version}
        write_file(self.directory / RESULT, json.dumps(result) + "\n")
        return checkpoint

    @property
    def result(self) -> Checkpoint | None:
        """What came of the run, if it has ended."""
        path = self.directory / RESULT
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        return self.store.find(f"{found['name']}@{found['version']}")

    def _directory(self, named: str) -> str:
        if not named.startswith(models.CHECKPOINT):
            return named
        return str(self.store.find(named.removeprefix(models.CHECKPOINT)).path)

    def _task_rows(self, spec: str) -> list[Prompted]:
        data = self.recipe.data
        try:
            problems = task_named(spec, data.seed).problems()[: data.problems]
        except ValueError as error:
            raise RunError(f"data.task: {error}") from error
        return [
            Prompted(
                prompt=tuple(Message(**message) for message in problem.messages),
                reference=problem.reference,
                problem=problem.id,
                source={"task": spec, "seed": data.seed},
            )
            for problem in problems
        ]

    def within_context(self, row: Row) -> Complaint | None:
        """Complain of a row that is too long: cut off, a reply would lose its end."""
        longest = self.recipe.training.max_length
        try:
            tokens = self.encoder.length(row)
        except EncodingError as error:
            return Complaint("not as the template writes it", str(error), "messages")
        if tokens <= longest:
            return None
        return Complaint("over the context", f"{tokens} tokens, training.max_length is {longest}")


def open_run(
    recipe: Recipe,
    directory: Path,
    store: CheckpointStore,
    progress: Progress,
    say: Callable[[str], None],
) -> Run:
    """Begin a run in its directory, or go on with the one there; `say` tells a line to people.

    Raises:
        RunError: the directory is of another recipe; the message names what differs.
    """
    models.quieten()
    directory.mkdir(parents=True, exist_ok=True)
    path, resolved = directory / RECIPE, recipe.resolved()
    if path.exists():
        before = json.loads(path.read_text())
        if changed := sorted(differences(before, resolved)):
            raise RunError(
                f"{directory} is a run of another recipe: {', '.join(changed)} differ; give another"
                f" --out, or remove it"
            )
    elif _first_process():
        write_file(path, json.dumps(resolved, indent=1) + "\n")
    return Run(recipe, directory, store, progress, say)


def _first_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0
