"""Measure a verifier: what it tells right from wrong by, and what choosing by it is worth."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from loadtests.auc import pair_outcomes
from loadtests.curves import judged
from loadtests.estimators import best_of_k, majority_at_k, random_choice, weighted_at_k
from loadtests.inference import cluster_bootstrap
from loadtests.judging import ask
from loadtests.pools import MANIFEST, POOLS, Pool, Recorded, Sample, joined, open_pool
from loadtests.progress import Bar
from loadtests.rows import rows_of
from server.checkpoints.evaluation import Evaluation
from server.settings import MAIN_ENGINE
from training.evaluation.order import EvaluationFailed, Order, measure
from training.evaluation.served_verifier import server_settings
from verifiers.concurrency import together
from verifiers.errors import EngineError

VERIFIER = "checkpoint"
"""Its name at the server that is asked."""
CHANCE = "a reply at random"
"""What a verifier is to gain on."""
SCORES = "scores.jsonl"
_AT_ONCE = 4
"""Problems in flight: each has several replies."""
_PATIENCE_S = 900.0


def measure_verifier(order: Order) -> Evaluation:
    """Let it score a pool's replies, and choose among them by its scores and without.

    Raises:
        EvaluationFailed: the pool, or the server, does not give what it takes.
    """
    pool = _pool(order)
    names = [each.id for each in order.problems([each.problem for each in pool.recorded])]
    count = order.gate.samples or pool.manifest.samples
    by_name = {each.problem.id: each for each in pool.recorded}
    asked = [
        Recorded(by_name[name].problem, by_name[name].samples[:count]) for name in sorted(names)
    ]
    settings = server_settings(order, VERIFIER)
    place = order.place(order.checkpoint.spec, pool.manifest.task, sorted(names), count)
    place.mkdir(parents=True, exist_ok=True)
    out = place / SCORES
    known = {row["problem"] for row in rows_of(out)}
    if todo := [each for each in asked if each.problem.id not in known]:
        with order.server(order.checkpoint.spec, settings, place / "server") as url:
            asyncio.run(_score(url, todo, out))
    scores = {row["problem"]: row["scores"] for row in rows_of(out)}
    return _measured(order, pool, asked, [scores[each.problem.id] for each in asked])


def _pool(order: Order) -> Pool:
    assert order.gate.pool is not None, "or a policy would be measured"
    try:
        pool = joined([_open(name) for name in order.gate.pool])
    except ValueError as error:
        raise EvaluationFailed(f"gate.pool: {error}") from error
    if (order.gate.samples or 1) > pool.manifest.samples:
        raise EvaluationFailed(
            f"{pool.name} has {pool.manifest.samples} samples of each problem, not "
            f"{order.gate.samples}"
        )
    return pool


def _open(name: str) -> Pool:
    path = Path(name)
    if not (path / MANIFEST).exists():
        path = POOLS / name
    try:
        return open_pool(path)
    except FileNotFoundError as error:
        raise EvaluationFailed(f"{name} is no pool") from error


async def _score(url: str, todo: Sequence[Recorded], out: Path) -> None:
    """Append the scores of each problem's replies, as they come."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(client: httpx.AsyncClient, recorded: Recorded, bar: Bar) -> None:
        async with limit:
            row = await _asked(client, recorded)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        bar.advance(len(recorded.samples), row["usage"]["completion_tokens"])

    replies = sum(len(each.samples) for each in todo)
    with Bar() as bar:
        bar.start(replies, replies)
        async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S) as client:
            await together(one(client, each, bar) for each in todo)


async def _asked(client: httpx.AsyncClient, recorded: Recorded) -> dict[str, Any]:
    try:
        return await ask(client, recorded, VERIFIER)
    except httpx.HTTPStatusError as error:
        raise EngineError(f"the server does not score: {error.response.text}") from error
    except httpx.HTTPError as error:
        raise EngineError(f"the server does not score: {error!r}") from error


def _measured(
    order: Order,
    pool: Pool,
    asked: Sequence[Recorded],
    scores: Sequence[Sequence[float | None]],
) -> Evaluation:
    chances = [_chances(each, said) for each, said in zip(asked, scores, strict=True)]
    columns = {name: [each[name] for each in chances] for name in chances[0]}
    gain = order.mean([each["best"] - each["random"] for each in chances])
    better = [each["weighted"] - each["majority"] for each in chances]
    measures = {name: measure(order.mean(values)) for name, values in columns.items()}
    measures["weighted_minus_majority"] = measure(order.mean(better))
    measures["auc"] = _auc(order, asked, scores)
    measures["auc_likeliest"] = _auc(order, asked, [_free(each.samples) for each in asked])
    gate, count = order.gate, len(asked[0].samples)
    return Evaluation(
        checkpoint=order.checkpoint.spec,
        parent=CHANCE,
        task=pool.manifest.task,
        strategy={"type": "best_of_n", "n": count},
        verifier={"kind": order.checkpoint.manifest.kind, **gate.configuration},
        sampling={"pool": pool.name, "model": pool.manifest.model, **pool.manifest.sampling},
        seed=gate.seed,
        problems=len(asked),
        samples=count,
        accuracy=measures["best"].mean,
        parent_accuracy=measures["random"].mean,
        gain=gain.mean,
        lower=gain.low,
        upper=gain.high,
        confidence=gate.confidence,
        bar=gate.bar,
        created_at=datetime.now(UTC),
        measures=measures,
        protocol={"held_out": gate.held_out, "server": gate.server, "engine": MAIN_ENGINE},
    )


def _chances(recorded: Recorded, scores: Sequence[float | None]) -> Mapping[str, float]:
    """Return how likely each way of choosing among a problem's replies is right."""
    correct, answers = judged(recorded.samples), [each.answer for each in recorded.samples]
    known = [-math.inf if score is None else score for score in scores]
    weights = [max(0.0, score) for score in known]  # as `weighted_vote` has it
    if not any(weights):
        weights = [1.0] * len(weights)
    count = len(correct)
    return {
        "random": random_choice(correct),
        "best": best_of_k(known, correct, count),
        "likeliest": best_of_k(_free(recorded.samples), correct, count),
        "majority": majority_at_k(answers, correct, count),
        "weighted": weighted_at_k(answers, weights, correct, count).mean,
        "oracle": float(any(correct)),
        "abstained": sum(score is None for score in scores) / count,
    }


def _free(samples: Sequence[Sample]) -> list[float]:
    """Score replies by what costs nothing: that they have an answer, and then how likely they are.

    What a trained verifier has to beat.
    """
    return [each.mean_logprob if each.answer is not None else -math.inf for each in samples]


def _auc(order: Order, asked: Sequence[Recorded], scores: Sequence[Sequence[float | None]]) -> Any:
    """Return the share of pairs, right and wrong replies to one problem, that it orders rightly."""
    pairs = [
        pair_outcomes(said, judged(each.samples)) for each, said in zip(asked, scores, strict=True)
    ]
    mixed = [each for each in pairs if each]
    if not mixed:
        raise EvaluationFailed("no problem of the pool has both right and wrong replies")
    return measure(cluster_bootstrap(mixed, pooled=True, level=order.gate.confidence))
