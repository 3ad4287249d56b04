"""Measure a policy against its parent: the same problems, with the same seeds, through the API."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from loadtests.curves import judged
from loadtests.endpoint import Endpoint, RequestFailed
from loadtests.grading import Grader
from loadtests.pools import Manifest, Pool, open_pool
from loadtests.progress import Bar
from loadtests.record import SAMPLING, Outcome, Recorder, found
from loadtests.tasks.base import Problem, Task
from loadtests.tasks.discovery import task_named
from server.checkpoints.evaluation import Evaluation
from server.settings import MAIN_ENGINE
from training.evaluation.gate import GateSettings
from training.evaluation.held_out import CHECKPOINT
from training.evaluation.order import EvaluationFailed, Order, measure
from verifiers.equality import AnswerEquality

if TYPE_CHECKING:
    from training.models import Base

PARENT, OWN = "parent", "checkpoint"


def measure_policy(order: Order) -> Evaluation:
    """Ask parent and checkpoint every problem, and compare them problem by problem.

    Raises:
        EvaluationFailed: answers are missing; asked again, it goes on from those that are there.
    """
    from training.models import find_base

    parent = order.gate.parent or parent_of(order)
    specs = {PARENT: parent, OWN: f"{CHECKPOINT}{order.checkpoint.spec}"}
    asked = {role: find_base(spec, order.store, order.progress) for role, spec in specs.items()}
    task, among = _task(order.gate)
    problems = order.problems(among)
    places = [[each.name, str(each.path), str(each.adapter)] for each in asked.values()]
    place = order.place(places, [[each.id, each.question, each.reference] for each in problems])
    for role, base in asked.items():
        found(place / role, _manifest(order.gate, task, problems, role, base))
    for path, roles in _by_weights(asked).items():
        if todo := [role for role in roles if _missing(place / role)]:
            names = " and ".join(asked[role].name for role in todo)
            settings = _settings(path, {role: asked[role].adapter for role in roles})
            with order.server(names, settings, place / f"server-of-{todo[0]}") as url:
                for role in todo:
                    _answer(order.gate, task, place / role, url)
    return _compare(order, parent, open_pool(place / PARENT), open_pool(place / OWN))


def parent_of(order: Order) -> str:
    """Return what a checkpoint was trained from: its recipe's `model`, else the manifest's base."""
    manifest = order.checkpoint.manifest
    return str(manifest.config.get("model") or manifest.base_model)


def _task(gate: GateSettings) -> tuple[Task, Sequence[Problem]]:
    assert gate.task is not None, "or a verifier would be measured"
    try:
        task = task_named(gate.task, gate.seed)
        return task, task.problems()
    except ValueError as error:
        raise EvaluationFailed(f"gate.task: {error}") from error


def _manifest(
    gate: GateSettings, task: Task, problems: Sequence[Problem], role: str, base: Base
) -> Manifest:
    sampling: dict[str, Any] = {
        **SAMPLING,
        "temperature": gate.temperature,
        "max_completion_tokens": gate.max_tokens,
        "strategy": gate.strategy,
        "budget": gate.budget,
        **gate.sampling,
    }
    if gate.verifier is not None:
        sampling["verifier"] = gate.verifier
    return Manifest(
        task=task.spec,
        model=MAIN_ENGINE if base.adapter is None else role,
        samples=gate.samples or 1,
        sampling=sampling,
        problems=tuple(problems),
        seed=gate.seed,
        note=base.name if base.adapter is None else f"{base.name} with {base.adapter}",
    )


def _by_weights(asked: Mapping[str, Base]) -> dict[Path, list[str]]:
    """Group who is served by one server: adapters beside the model that they are of.

    So an adapter is measured as it is served, not merged: rounding would make it another policy.
    """
    groups: dict[Path, list[str]] = defaultdict(list)
    for role, base in asked.items():
        groups[base.path.resolve()].append(role)
    return groups


def _settings(path: Path, adapters: Mapping[str, Path | None]) -> dict[str, Any]:
    named = {role: str(each.resolve()) for role, each in adapters.items() if each is not None}
    options = {"options": {"adapters": named}} if named else {}
    return {"engine": "vllm", "model": str(path), **options}


def _missing(out: Path) -> bool:
    pool = open_pool(out)
    return len(pool.recorded) < len(pool.manifest.problems)


def _answer(gate: GateSettings, task: Task, out: Path, url: str) -> None:
    """Ask for the answers that a pool lacks. Raises EvaluationFailed where it lacks some after."""
    try:
        outcome = asyncio.run(_record(gate, task, out, url))
    except (RequestFailed, ValueError) as error:  # such as: another process records there
        raise EvaluationFailed(str(error)) from error
    if outcome.interrupted:
        raise EvaluationFailed("interrupted; the same command goes on from what is answered")
    if outcome.failed:
        problem, number = outcome.failed[0]
        raise EvaluationFailed(
            f"{len(outcome.failed)} answers could not be had, the first to problem {problem}, "
            f"sample {number}; the same command asks for them again"
        )


async def _record(gate: GateSettings, task: Task, out: Path, url: str) -> Outcome:
    manifest = open_pool(out).manifest
    async with aclosing(AnswerEquality()) as equality:
        grader = Grader(task, manifest.problems, equality)
        await equality.start()
        async with Endpoint(url, logprobs=False) as endpoint:
            with Bar() as bar:
                recorder = Recorder(out, manifest, endpoint, grader, bar, gate.concurrency)
                bar.start(len(manifest.problems) * manifest.samples, len(recorder.todo))
                return await recorder.run()


def _compare(order: Order, parent: str, before: Pool, after: Pool) -> Evaluation:
    gate, shares = order.gate, (_shares(before), _shares(after))
    gain = order.mean([new - old for old, new in zip(*shares, strict=True)])
    measures = {
        f"{prefix}{name}": measure(order.mean(values))
        for prefix, pool, right in (("parent_", before, shares[0]), ("", after, shares[1]))
        for name, values in {"accuracy": right, **_costs(pool)}.items()
    }
    asked = after.manifest
    apart = ("strategy", "verifier", "budget")
    return Evaluation(
        checkpoint=order.checkpoint.spec,
        parent=parent,
        task=asked.task,
        strategy=gate.strategy,
        verifier=gate.verifier,
        budget=gate.budget,
        sampling={name: value for name, value in asked.sampling.items() if name not in apart},
        seed=gate.seed,
        problems=len(asked.problems),
        samples=asked.samples,
        accuracy=measures["accuracy"].mean,
        parent_accuracy=measures["parent_accuracy"].mean,
        gain=gain.mean,
        lower=gain.low,
        upper=gain.high,
        confidence=gate.confidence,
        bar=gate.bar,
        created_at=datetime.now(UTC),
        measures=measures,
        protocol={"held_out": gate.held_out, "server": gate.server},
    )


def _shares(pool: Pool) -> list[float]:
    """Return the share of right answers to each problem."""
    try:
        return [fmean(judged(each.samples)) for each in pool.recorded]
    except ValueError as error:
        raise EvaluationFailed(f"{pool.manifest.task}: {error}") from error


def _costs(pool: Pool) -> dict[str, list[float]]:
    """Return what an answer to each problem cost: all tokens generated for it, and its seconds."""
    groups = [each.samples for each in pool.recorded]
    return {
        "tokens": [fmean(each.completion_tokens for each in group) for group in groups],
        "seconds": [fmean(each.seconds or 0.0 for each in group) for group in groups],
    }
