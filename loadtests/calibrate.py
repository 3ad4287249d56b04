"""What a verifier's scores are worth on a pool: fit a calibration on half of it, test on the rest.

The verifier runs where it always does, in a server, which is asked for the scores of recorded
samples; whether these are right, the pool knows. Problems, not samples, are parted, as samples of
one problem are alike.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import httpx
import numpy as np
from pydantic import BaseModel, FiniteFloat, ValidationError

from loadtests.endpoint import RequestFailed
from loadtests.inference import paired_bootstrap
from loadtests.pools import Pool, Recorded
from loadtests.report import table
from verifiers.calibration import EDGE, Isotonic, Temperature, logit

Kind: TypeAlias = Literal["temperature", "isotonic"]
Scored: TypeAlias = Sequence[tuple[float, bool]]
"""A problem's samples: score, and whether it is right."""

BINS = 10
RESAMPLES = 2_000
_SECONDS = 1_200.0
_DEADLINE_SECONDS = 600
"""Of our own server's budget: its default would leave out what waits for its turn."""
_CONCURRENCY = 4


class Advance(Protocol):
    """What a progress bar is told."""

    def __call__(self, rows: int, tokens: int) -> None:
        """Count."""


class Fit(NamedTuple):
    """A calibration and what it is worth."""

    calibration: Temperature | Isotonic
    report: str


async def score_pool(
    pool: Pool, problems: Sequence[Recorded], url: str, verifier: str, advance: Advance
) -> list[Scored]:
    """Have a server's verifier score samples; those that it abstains on are left out.

    Raises:
        RequestFailed: the server refuses, or does not answer.
        ValueError: a sample of the pool is not graded.
    """
    if any(sample.correct is None for each in problems for sample in each.samples):
        raise ValueError(f"{pool.name} holds samples that are not graded")
    key = os.environ.get("FORETHOUGHT_BENCH_KEY") or os.environ.get("OPENAI_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    root = url.rstrip("/").removesuffix("/v1")
    turn = asyncio.Semaphore(_CONCURRENCY)
    async with httpx.AsyncClient(base_url=root, headers=headers, timeout=_SECONDS) as client:

        async def score(recorded: Recorded) -> Scored:
            async with turn:
                answer = await _verify(client, recorded, verifier)
            advance(len(recorded.samples), answer.usage.completion_tokens)
            return [
                (item.score, bool(recorded.samples[item.index].correct))
                for item in answer.data
                if item.score is not None and not item.abstained
            ]

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(score(each)) for each in problems]
        except* RequestFailed as failed:
            raise _first(failed) from None
    return [task.result() for task in tasks]


def chosen(pool: Pool, count: int | None, seed: int) -> list[Recorded]:
    """Draw problems of a pool, all by default."""
    problems = list(pool.recorded)
    random.Random(seed).shuffle(problems)
    return problems[:count]


def fit(scored: Sequence[Scored], kind: Kind, origin: Mapping[str, Any]) -> Fit:
    """Fit on the first half of the problems, and hold the other half against it.

    Raises:
        ValueError: the first half has no right or no wrong samples, or higher scores are not more
            often right; the second half has none.
    """
    middle = len(scored) // 2
    learned = [pair for problem in scored[:middle] for pair in problem]
    held_out = [problem for problem in scored[middle:] if problem]
    if len({right for _, right in learned}) < 2 or not held_out:
        raise ValueError(
            f"{len(learned)} scored samples to fit on, {len(held_out)} problems to test on: "
            "too few, or all right, or all wrong"
        )
    calibration = _FITS[kind](learned)
    figures, report = _compared(held_out, calibration.probability)
    told = dict(origin) | {
        "problems": middle,
        "samples": len(learned),
        "held_out": {"problems": len(held_out), **figures},
    }
    return Fit(calibration.model_copy(update={"fitted": told}), report)


def write(calibration: Temperature | Isotonic, out: Path) -> None:
    """Write a calibration's file, whole or not at all."""
    draft = out.with_name(f".{out.name}")
    draft.write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")
    draft.replace(out)


class _Item(BaseModel):
    index: int
    score: FiniteFloat | None
    abstained: bool = False


class _Usage(BaseModel):
    completion_tokens: int = 0


class _Verified(BaseModel):
    """What is read of an answer of /v1/verify."""

    data: list[_Item]
    usage: _Usage = _Usage()


async def _verify(client: httpx.AsyncClient, recorded: Recorded, verifier: str) -> _Verified:
    body = {
        "messages": recorded.problem.messages,
        "candidates": [
            {"content": sample.text, "finish_reason": sample.finish_reason}
            for sample in recorded.samples
        ],
        "verifier": verifier,
        "budget": {"deadline_s": _DEADLINE_SECONDS},
    }
    try:
        response = await client.post("/v1/verify", json=body)
    except httpx.HTTPError as error:
        raise RequestFailed(str(error) or type(error).__name__, passing=True) from error
    if not response.is_success:
        reason = f"status {response.status_code}: {response.text[:300]}"
        raise RequestFailed(reason, passing=False)
    try:
        answer = _Verified.model_validate_json(response.content)
    except ValidationError as error:
        raise RequestFailed(f"not an answer of /v1/verify: {error}", passing=False) from error
    if sorted(item.index for item in answer.data) != list(range(len(recorded.samples))):
        raise RequestFailed("the server did not score every sample once", passing=False)
    return answer


def _first(group: BaseExceptionGroup[RequestFailed]) -> RequestFailed:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _temperature(pairs: Scored) -> Temperature:
    from sklearn.linear_model import LogisticRegression

    odds = np.array([[logit(score)] for score, _ in pairs])
    model = LogisticRegression(C=1e6).fit(odds, [right for _, right in pairs])
    slope, bias = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:
        raise ValueError("higher scores are not more often right: there is nothing to calibrate")
    return Temperature(temperature=1 / slope, bias=bias)


def _isotonic(pairs: Scored) -> Isotonic:
    """Fit, with no probability surer than so many samples can make it (Laplace's rule)."""
    from sklearn.isotonic import IsotonicRegression

    surest = 1 / (len(pairs) + 2)
    model = IsotonicRegression(y_min=surest, y_max=1 - surest)
    model.fit([score for score, _ in pairs], [float(right) for _, right in pairs])
    knots = zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True)
    return Isotonic(knots=tuple(knots))


_FITS: Mapping[Kind, Callable[[Scored], Temperature | Isotonic]] = {
    "temperature": _temperature,
    "isotonic": _isotonic,
}


def _compared(
    problems: Sequence[Scored], probability: Callable[[float], float]
) -> tuple[dict[str, dict[str, float]], str]:
    """Measure scores and calibrated scores on the same samples; return figures and a table."""
    before = [[(min(max(score, 0.0), 1.0), right) for score, right in each] for each in problems]
    after = [[(probability(score), right) for score, right in each] for each in problems]
    rows, figures = [], {}
    for name, loss in (("Brier", _brier), ("log loss", _log_loss)):
        old, new = (
            [fmean(loss(*pair) for pair in each) for each in side] for side in (before, after)
        )
        change = paired_bootstrap([b - a for a, b in zip(old, new, strict=True)])
        figures[name] = {"before": fmean(old), "after": fmean(new)}
        rows.append([name, *_cells(fmean(old), fmean(new), change.low, change.high)])
    old_error, new_error, low, high = _calibration_errors(before, after)
    figures["ECE"] = {"before": old_error, "after": new_error}
    rows.insert(0, ["ECE", *_cells(old_error, new_error, low, high)])
    return figures, table(["held-out half", "before", "after", "change (95 %)"], rows)


def _cells(before: float, after: float, low: float, high: float) -> list[str]:
    change = f"{after - before:+.4f} ({low:+.4f} to {high:+.4f})"
    return [f"{before:.4f}", f"{after:.4f}", change]


def _brier(probability: float, right: bool) -> float:
    return (probability - right) ** 2


def _log_loss(probability: float, right: bool) -> float:
    inside = min(max(probability, EDGE), 1 - EDGE)
    return -math.log(inside if right else 1 - inside)


def expected_calibration_error(pairs: Scored) -> float:
    """Return Σ over ten bins of equal width of their share × |mean probability − share right|."""
    return float(np.abs(_gaps(pairs)).sum() / len(pairs))


def _gaps(pairs: Scored) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Sum probability minus verdict in each bin."""
    gaps = np.zeros(BINS)
    for probability, right in pairs:
        gaps[min(int(probability * BINS), BINS - 1)] += probability - right
    return gaps


def _calibration_errors(
    before: Sequence[Scored], after: Sequence[Scored]
) -> tuple[float, float, float, float]:
    """Return both errors and the percentile interval of their difference over problems."""
    sizes = np.array([len(each) for each in before])
    old, new = (np.array([_gaps(each) for each in side]) for side in (before, after))
    counts = np.random.default_rng(0).multinomial(
        len(sizes), np.full(len(sizes), 1 / len(sizes)), size=RESAMPLES
    )
    samples = counts @ sizes
    old_errors, new_errors = (np.abs(counts @ side).sum(axis=1) / samples for side in (old, new))
    low, high = np.percentile(new_errors - old_errors, [2.5, 97.5])
    whole = [float(np.abs(side.sum(axis=0)).sum() / sizes.sum()) for side in (old, new)]
    return whole[0], whole[1], float(low), float(high)
