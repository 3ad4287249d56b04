"""Calibrations by hand, by property, from a file, and in an answer's `scaling.confidence`."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from server.configuration import ConfigurationError
from server.consistency import build_verifiers
from server.settings import Settings
from tests.server.local import local
from verifiers.base import verifier_classes
from verifiers.calibration import EDGE, Calibration, Isotonic, Temperature, logit, sigmoid
from verifiers.logprob import Logprob

SCORES = st.floats(allow_nan=False, allow_infinity=False)
CALIBRATION: TypeAdapter[Any] = TypeAdapter(Calibration)


def test_temperature_scales_the_log_odds() -> None:
    # logit(0.8) = ln 4; halved it is ln 2, whose probability is 2/3.
    assert Temperature(temperature=2.0).probability(0.8) == pytest.approx(2 / 3)
    # With ln 3 more, the odds are 6.
    biased = Temperature(temperature=2.0, bias=math.log(3))
    assert biased.probability(0.8) == pytest.approx(6 / 7)
    assert Temperature(temperature=1.0).probability(0.3) == pytest.approx(0.3)
    assert Temperature(temperature=1.0).probability(1.0) == pytest.approx(1 - EDGE)


def test_isotonic_is_linear_between_knots_and_flat_beyond() -> None:
    knots = Isotonic(knots=((-1.0, 0.1), (0.0, 0.1), (2.0, 0.9)))
    told = [knots.probability(score) for score in (-9.0, -1.0, -0.5, 0.0, 0.5, 2.0, 9.0)]
    assert told == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.3, 0.9, 0.9])


def test_log_odds_and_sigmoid_undo_each_other() -> None:
    assert [sigmoid(logit(p)) for p in (0.001, 0.5, 0.999)] == pytest.approx([0.001, 0.5, 0.999])
    assert (sigmoid(-1e6), sigmoid(1e6)) == (0.0, 1.0)


@st.composite
def isotonics(draw: st.DrawFn) -> Isotonic:
    scores = sorted(draw(st.sets(SCORES, min_size=1, max_size=8)))
    levels = st.floats(0, 1)
    values = sorted(draw(st.lists(levels, min_size=len(scores), max_size=len(scores))))
    return Isotonic(knots=tuple(zip(scores, values, strict=True)))


CALIBRATIONS = st.one_of(
    isotonics(),
    st.builds(Temperature, temperature=st.floats(1e-3, 1e3), bias=st.floats(-20, 20)),
)


@given(CALIBRATIONS, st.lists(st.one_of(SCORES, st.floats(0, 1)), min_size=2))
def test_a_higher_score_is_never_worth_less(
    calibration: Temperature | Isotonic, scores: list[float]
) -> None:
    told = [calibration.probability(score) for score in sorted(scores)]
    assert all(0 <= each <= 1 for each in told)
    assert all(low <= high + 1e-12 for low, high in pairwise(told))


@given(CALIBRATIONS)
def test_it_is_read_as_it_was_written(calibration: Temperature | Isotonic) -> None:
    assert CALIBRATION.validate_json(calibration.model_dump_json()) == calibration


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "temperature", "temperature": 0},
        {"kind": "temperature", "temperature": float("inf")},
        {"kind": "temperature", "temperature": 1, "bias": float("nan")},
        {"kind": "isotonic", "knots": []},
        {"kind": "isotonic", "knots": [[0.5, 1.5]]},
        {"kind": "isotonic", "knots": [[0.5, 0.2], [0.5, 0.3]]},
        {"kind": "isotonic", "knots": [[0.5, 0.3], [0.6, 0.2]]},
        {"kind": "isotonic", "knots": [[float("nan"), 0.2]]},
        {"kind": "platt"},
        {},
    ],
)
def test_what_is_no_calibration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CALIBRATION.validate_python(wrong)


def test_a_verifier_reads_its_calibration_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sure.json"
    file.write_text(json.dumps({"kind": "temperature", "temperature": 2.0, "fitted": {"n": 3}}))
    verifier = Logprob.model_validate({"calibration": str(file)})
    assert verifier.probability(0.8) == pytest.approx(2 / 3)
    assert Logprob().probability(0.8) is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "No such file"), ("{", "not JSON"), ('{"kind": "isotonic"}', "Field required")],
)
def test_a_wrong_file_is_told_when_the_server_is_configured(
    tmp_path: Path, content: str | None, problem: str
) -> None:
    file = tmp_path / "wrong.json"
    if content is not None:
        file.write_text(content)
    configured = {"sure": {"type": "logprob", "calibration": str(file)}}
    with pytest.raises(ConfigurationError, match=f"verifiers.sure.calibration.*{problem}"):
        build_verifiers(Settings(verifiers=configured), verifier_classes())


def test_confidence_is_the_calibrated_score_of_the_chosen_candidate() -> None:
    calibration = {"kind": "isotonic", "knots": [[0.0, 0.25], [1.0, 0.75]]}
    configured = {"sure": {"type": "logprob", "calibration": calibration}}
    asked: dict[str, Any] = {"strategy": {"type": "best_of_n", "n": 4}}
    with local(verifiers=configured) as server:
        scaling = server.post(**asked, verifier="sure").json()["scaling"]
        plain = server.post(**asked, verifier="logprob").json()["scaling"]
        voted = server.post(strategy={"type": "self_consistency", "n": 4}).json()["scaling"]
    assert scaling["scores"][0] is not None
    assert scaling["confidence"] == pytest.approx(0.25 + 0.5 * scaling["scores"][0])
    assert plain["confidence"] is None
    assert voted["confidence"] is None
    assert voted["agreement"] is not None
