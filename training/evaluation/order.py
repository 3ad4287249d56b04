"""What an evaluation is given, whatever kind of checkpoint it measures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.inference import Interval, paired_bootstrap
from loadtests.record import choose
from loadtests.tasks.base import Problem
from server.checkpoints.evaluation import Measure
from server.checkpoints.store import Checkpoint, CheckpointStore
from server.models import Progress
from training.evaluation.gate import GateSettings
from training.evaluation.held_out import held_out
from training.evaluation.server import Serve


class EvaluationFailed(RuntimeError):
    """A checkpoint could not be measured; the message says why."""


@dataclass(frozen=True, slots=True)
class Order:
    """A checkpoint, and how it is to be measured."""

    checkpoint: Checkpoint
    gate: GateSettings
    store: CheckpointStore
    directory: Path
    """Where answers are kept, so that an evaluation that was cut off goes on."""
    progress: Progress
    serve: Serve

    def problems(self, among: Sequence[Problem]) -> tuple[Problem, ...]:
        """Choose the gate's problems. Raises EvaluationFailed where there are not so many."""
        gate, fresh = self.gate, list(among)
        if gate.held_out:
            fresh = held_out(among, self.checkpoint.manifest, self.store)
        seen = len(among) - len(fresh)
        if len(fresh) < (gate.problems or 1):
            among_what = gate.task or " + ".join(gate.pool or ())
            raise EvaluationFailed(
                f"{among_what} has {len(fresh)} problems beside {seen} that were "
                f"trained on; the gate asks for {gate.problems or 'all'}: give another `seed`, or "
                "`held_out = false`"
            )
        return choose(fresh, gate.problems, gate.seed)

    def place(self, *what: Any) -> Path:
        """Return the directory of one measurement: `what` tells it from every other one.

        What is done with the figures, and how many requests are in flight, is not part of it.
        """
        asked = self.gate.model_dump(
            mode="json", exclude={"bar", "required", "confidence", "concurrency"}
        )
        said = json.dumps([asked, *what], sort_keys=True)
        return self.directory / hashlib.sha256(said.encode()).hexdigest()[:12]

    @contextmanager
    def server(self, title: str, settings: dict[str, Any], directory: Path) -> Iterator[str]:
        """Serve with these settings, the gate's laid over them; yields the URL."""
        own = dict(self.gate.server)
        if options := own.pop("options", None):
            settings = {**settings, "options": {**settings.get("options", {}), **options}}
        with ExitStack() as stack:
            with self.progress.stage(f"Starting a server of {title}"):
                url = stack.enter_context(self.serve({**settings, **own}, directory))
            yield url

    def mean(self, values: Sequence[float]) -> Interval:
        """Return the mean over problems with the gate's interval."""
        return paired_bootstrap(values, level=self.gate.confidence)


def measure(interval: Interval) -> Measure:
    """Write an interval as evaluations keep it."""
    return Measure(mean=interval.mean, low=interval.low, high=interval.high)
