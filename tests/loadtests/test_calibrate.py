"""Calibrating: figures by hand, fits that must recover what made the data, the whole command."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from starlette.responses import Response
from typer.testing import CliRunner

from loadtests.bench import app
from loadtests.calibrate import Scored, expected_calibration_error, fit
from loadtests.pools import Manifest, Sample, append, write_manifest
from loadtests.tasks.base import Problem
from server.consistency import build_verifiers
from server.settings import Settings
from tests.verifiers.scoring_server import running
from verifiers.base import verifier_classes
from verifiers.calibration import Calibration, Isotonic, Temperature, sigmoid
from verifiers.types import JSONObject


def overconfident(problems: int, each: int = 8, seed: int = 0) -> list[Scored]:
    """Scores whose log-odds are thrice what they should be, plus 1."""
    rng = random.Random(seed)

    def sample() -> tuple[float, bool]:
        odds = rng.gauss(0, 1.5)
        return sigmoid(3 * odds + 1), rng.random() < sigmoid(odds)

    return [[sample() for _ in range(each)] for _ in range(problems)]


def test_the_calibration_error_by_hand() -> None:
    # In [0.2, 0.3): mean 0.25, none right; in [0.9, 1]: mean 0.95, one of two right.
    pairs = [(0.2, False), (0.3 - 1e-9, False), (0.9, True), (1.0, False)]
    assert expected_calibration_error(pairs) == pytest.approx((0.25 * 2 + 0.45 * 2) / 4)
    assert expected_calibration_error([(1.0, True), (0.0, False)]) == 0.0


def test_temperature_finds_what_made_the_scores() -> None:
    fitted = fit(overconfident(1_000), "temperature", {"verifier": "v"}).calibration
    assert isinstance(fitted, Temperature)
    assert fitted.temperature == pytest.approx(3, rel=0.15)
    assert fitted.bias == pytest.approx(-1 / 3, abs=0.15)
    assert fitted.fitted["verifier"] == "v"
    assert fitted.fitted["problems"] == 500


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_calibrating_helps_on_the_other_half(kind: Any) -> None:
    fitted = fit(overconfident(400), kind, {})
    figures = fitted.calibration.fitted["held_out"]
    for name in ("ECE", "Brier", "log loss"):
        assert figures[name]["after"] < figures[name]["before"]
        assert name in fitted.report
    assert figures["ECE"]["after"] < 0.05
    assert figures["problems"] == 200


def test_isotonic_is_never_surer_than_its_samples() -> None:
    scored: list[Scored] = [[(0.1, False), (0.9, True)]] * 8
    fitted = fit(scored, "isotonic", {}).calibration
    assert isinstance(fitted, Isotonic)
    assert fitted.probability(0.0) == pytest.approx(1 / 10)
    assert fitted.probability(1.0) == pytest.approx(9 / 10)


@pytest.mark.parametrize(
    ("scored", "problem"),
    [
        ([], "too few"),
        ([[(0.5, True)]] * 4, "all right"),
        ([[(0.5, True), (0.4, False)], []], "too few"),
        ([[(0.1, True), (0.9, False)]] * 4, "not more often right"),
    ],
)
def test_what_cannot_be_fitted_is_told(scored: Sequence[Scored], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        fit(scored, "temperature", {})


def a_pool(path: Path, problems: int = 40, samples: int = 4, *, graded: bool = True) -> Path:
    """Write a pool whose texts are numbers in [0, 1]: twice as often right where they are high."""
    rng = random.Random(0)
    asked = tuple(
        Problem(f"p{place}", ({"role": "user", "content": f"Q{place}"},), "1")
        for place in range(problems)
    )
    write_manifest(path, Manifest("gsm8k", "m", samples, {}, asked))
    rows = [
        Sample(each.id, number, f"{x:.3f}", "stop", 1, 1, correct=verdict if graded else None)
        for each in asked
        for number in range(samples)
        for x in [rng.random()]
        for verdict in [rng.random() < (0.8 if x > 0.5 else 0.2)]
    ]
    append(path / "a.jsonl.gz", rows)
    return path


def verify(body: JSONObject) -> JSONObject:
    """Score as the text says; abstain below 0.05."""
    told = [float(each["content"]) for each in body["candidates"]]
    data: list[JSONObject] = [
        {"index": place, "score": None if x < 0.05 else x, "steps": [], "abstained": x < 0.05}
        for place, x in enumerate(told)
    ]
    return {"object": "list", "data": data, "usage": {"completion_tokens": 3}}


def calibrate(url: str, pool: Path, out: Path, *more: str) -> Any:
    options = ["--url", url, "--verifier", "v", "--pool", str(pool), "--out", str(out)]
    return CliRunner().invoke(app, ["calibrate", *options, *more])


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_the_command_writes_what_a_verifier_takes(tmp_path: Path, kind: str) -> None:
    pool, out = a_pool(tmp_path / "pool"), tmp_path / "out.json"
    with running(verify) as stub:
        done = calibrate(f"{stub.url}/v1", pool, out, "--kind", kind, "--problems", "30")
    assert done.exit_code == 0, done.output
    assert "| ECE |" in done.output
    assert len(stub.asked) == 30
    assert set(stub.paths) == {"/v1/verify"}
    assert stub.asked[0]["verifier"] == "v"
    written = TypeAdapter[Any](Calibration).validate_json(out.read_bytes())
    assert written.fitted["pool"] == "pool"
    assert written.fitted["problems"] == 15
    assert written.probability(0.9) > 0.5 > written.probability(0.1)
    configured = {"sure": {"type": "logprob", "calibration": str(out)}}
    sure = build_verifiers(Settings(verifiers=configured), verifier_classes())["sure"]
    assert sure.probability(0.9) == written.probability(0.9)


def test_the_halves_are_drawn_by_the_seed_alone(tmp_path: Path) -> None:
    pool = a_pool(tmp_path / "pool")
    with running(verify) as stub:
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
            assert calibrate(stub.url, pool, tmp_path / name, "--seed", seed).exit_code == 0
    first, again, other = (json.loads((tmp_path / name).read_text()) for name in "abc")
    assert first == again
    assert first["knots"] != other["knots"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b'{"data": []}', "did not score every sample once"),
        (b"[]", "not an answer of /v1/verify"),
        (b'{"data": [{"index": 0, "score": NaN}]}', "not an answer of /v1/verify"),
    ],
)
def test_a_bad_answer_ends_it_in_one_line(tmp_path: Path, answer: bytes, problem: str) -> None:
    pool, out = a_pool(tmp_path / "pool"), tmp_path / "out.json"
    with running(verify) as stub:
        stub.faults.append(Response(answer))
        done = calibrate(stub.url, pool, out)
    assert done.exit_code == 1
    assert problem in done.output
    assert not out.exists()


def test_nobody_there_and_nothing_graded(tmp_path: Path) -> None:
    with running(verify) as stub:
        ungraded = calibrate(stub.url, a_pool(tmp_path / "u", graded=False), tmp_path / "o")
    assert "not graded" in ungraded.output
    away = calibrate(stub.url, a_pool(tmp_path / "p"), tmp_path / "o")
    assert (ungraded.exit_code, away.exit_code) == (1, 1)


def test_a_loss_has_no_infinity() -> None:
    scored: list[Scored] = [[(0.0, True), (1.0, False), (0.2, False), (0.8, True)]] * 4
    figures = fit(scored, "isotonic", {}).calibration.fitted["held_out"]
    assert math.isfinite(figures["log loss"]["before"])
