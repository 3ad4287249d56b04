"""The recorder: asks an endpoint for samples of a task's problems, and keeps them in a pool.

A run writes what it has every few rows, into a shard of its own. Ended in whatever way, the next
run asks only for what is missing.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from loadtests.endpoint import Endpoint, RequestFailed
from loadtests.grading import Grader
from loadtests.pools import MANIFEST, Manifest, Sample, append, read_rows, write_manifest
from loadtests.tasks.base import Problem
from verifiers.types import JSONObject, sample_seed

SAMPLING: JSONObject = {
    "temperature": 0.8,
    "top_p": 1.0,
    "top_k": 0,
    "repetition_penalty": 1.0,
    "max_completion_tokens": 320,
}
"""The plain distribution, whatever the model's own defaults are; OpenAI itself knows no `top_k`
and no `repetition_penalty`."""

_BATCH = 16
_BATCH_SECONDS = 20.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Progress(Protocol):
    """Who is told how it goes."""

    def advance(self, rows: int, tokens: int) -> None:
        """So many more rows and tokens were answered."""

    def warn(self, message: str) -> None:
        """A sample failed."""


@dataclass
class Outcome:
    """How a run ended."""

    written: int = 0
    failed: list[tuple[str, int]] = field(default_factory=list)
    """Problem and number of each sample that could not be had."""
    interrupted: bool = False
    gave_up: bool = False
    """So many requests failed one after another that the rest was not asked."""


def choose(
    problems: Sequence[Problem], count: int | None, seed: int, first: Sequence[str] = ()
) -> tuple[Problem, ...]:
    """Choose problems: `first` in its order, then a draw of the rest in the task's order.

    Raises:
        ValueError: there are not so many, or `first` names one that the task does not have.
    """
    by_id = {problem.id: problem for problem in problems}
    if unknown := [name for name in first if name not in by_id]:
        raise ValueError(f"the task has no problem {unknown[0]!r}")
    if count is None:
        count = len(by_id)
    if not 0 < count <= len(by_id):
        raise ValueError(f"the task has {len(by_id)} problems, not {count}")
    begun = [by_id[name] for name in first[:count]]
    rest = [problem for problem in problems if problem.id not in set(first)]
    if count - len(begun) < len(rest):
        rest = [rest[i] for i in sorted(_draw(seed, len(rest), count - len(begun)))]
    return (*begun, *rest)


def found(out: Path, manifest: Manifest) -> None:
    """Write the manifest of a new pool, or check that the one there asks for the same.

    Raises:
        ValueError: it does not; the message names the field. Notes may differ.
    """
    if not (out / MANIFEST).exists():
        write_manifest(out, manifest)
        return
    there = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    asked = json.loads(json.dumps(asdict(manifest)))
    for name in sorted(asked.keys() - {"note"}):
        if there[name] != asked[name]:
            raise ValueError(
                f"{out} was recorded with another `{name}`: {_brief(there[name])} there, "
                f"{_brief(asked[name])} now; record into another directory"
            )


class Recorder:
    """One run: `concurrency` requests in flight, rows judged and written as they come."""

    def __init__(
        self,
        out: Path,
        manifest: Manifest,
        endpoint: Endpoint,
        grader: Grader,
        progress: Progress,
        concurrency: int = 32,
    ) -> None:
        known = {(row.problem, row.sample) for row in read_rows(out)}
        self.todo = [
            (problem, number)
            for problem in manifest.problems
            for number in range(manifest.samples)
            if (problem.id, number) not in known
        ]
        """Problem by problem, all samples of each."""
        self._out, self._manifest, self._endpoint = out, manifest, endpoint
        self._grader, self._progress, self._concurrency = grader, progress, concurrency
        self._shard = out / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.jsonl.gz"
        self._rows: asyncio.Queue[Sample | None] = asyncio.Queue()
        self._outcome = Outcome()
        self._failures_in_a_row = 0

    async def run(self) -> Outcome:
        """Ask for what is missing. SIGINT and SIGTERM end it early, with all answers written."""
        if not self.todo:
            return self._outcome
        with _held(self._out):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write())
                asking = group.create_task(self._ask())
                with self._interruptible(asking):
                    await asyncio.wait([asking])
                self._rows.put_nowait(None)
        return self._outcome

    async def _ask(self) -> None:
        todo = iter(self.todo)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._concurrency, len(self.todo))):
                group.create_task(self._work(todo))

    async def _work(self, todo: Iterator[tuple[Problem, int]]) -> None:
        for problem, number in todo:
            try:
                sample = await self._endpoint.sample(
                    self._body(problem, number), problem.id, number
                )
            except RequestFailed as failure:
                self._note_failure(problem, number, failure)
            else:
                self._failures_in_a_row = 0
                self._progress.advance(1, sample.completion_tokens)
                self._rows.put_nowait(sample)
            if self._outcome.gave_up:
                return

    def _note_failure(self, problem: Problem, number: int, failure: RequestFailed) -> None:
        self._outcome.failed.append((problem.id, number))
        self._progress.warn(f"problem {problem.id}, sample {number}: {failure}")
        self._failures_in_a_row += 1
        self._outcome.gave_up = self._failures_in_a_row >= 2 * self._concurrency

    def _body(self, problem: Problem, number: int) -> dict[str, Any]:
        place = f"{self._manifest.task}/{problem.id}/{number}"
        return {
            "model": self._manifest.model,
            "messages": problem.messages,
            **self._manifest.sampling,
            # 53 bits: what every JSON parser reads exactly.
            "seed": sample_seed(self._manifest.seed, place) >> 10,
        }

    async def _write(self) -> None:
        more = True
        while more:
            rows, more = await self._batch()
            if rows:
                append(self._shard, await self._grader.graded(rows))
                self._outcome.written += len(rows)

    async def _batch(self) -> tuple[list[Sample], bool]:
        """Wait for rows: enough, or some for long enough, or the last."""
        rows: list[Sample] = []
        try:
            async with asyncio.timeout(None) as patience:
                while len(rows) < _BATCH:
                    row = await self._rows.get()
                    if row is None:
                        return rows, False
                    rows.append(row)
                    if len(rows) == 1:
                        patience.reschedule(asyncio.get_running_loop().time() + _BATCH_SECONDS)
        except TimeoutError:
            pass
        return rows, True

    @contextmanager
    def _interruptible(self, asking: asyncio.Task[None]) -> Iterator[None]:
        """Let the first signal end the asking only; a second one ends the process as usual."""
        loop = asyncio.get_running_loop()

        def release() -> None:
            for each in _SIGNALS:
                loop.remove_signal_handler(each)

        def interrupt() -> None:
            release()
            self._outcome.interrupted = True
            asking.cancel()

        for each in _SIGNALS:
            loop.add_signal_handler(each, interrupt)
        try:
            yield
        finally:
            release()


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Keep others from recording the same pool. Raises ValueError where one does."""
    with (out / MANIFEST).open("rb") as manifest:
        try:
            fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{out} is being recorded by another process") from error
        yield


def _draw(seed: int, population: int, count: int) -> list[int]:
    return random.Random(seed).sample(range(population), count)


def _brief(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list) else json.dumps(value)
