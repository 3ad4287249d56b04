"""The bootstrap against what theory says, and the page that results are written to."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.estimators import coverage_law, paired_bootstrap, pass_at_k
from loadtests.report import table, write_section


def test_equal_differences_leave_no_doubt() -> None:
    assert paired_bootstrap([2.0] * 9) == (2.0, 2.0, 2.0)


def test_nothing_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match="at least one"):
        paired_bootstrap([])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_the_mean_lies_between_the_extremes_and_a_seed_repeats(differences: list[float]) -> None:
    interval = paired_bootstrap(differences, resamples=200, seed=3)
    assert min(differences) - 1e-9 <= interval.low <= interval.high <= max(differences) + 1e-9
    assert interval == paired_bootstrap(differences, resamples=200, seed=3)


def test_95_percent_intervals_cover_the_truth_95_times_in_100() -> None:
    rng = random.Random(5)
    covered = 0
    for trial in range(400):
        drawn = [rng.gauss(1.0, 2.0) for _ in range(60)]
        interval = paired_bootstrap(drawn, resamples=400, seed=trial)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.91 <= covered / 400 <= 0.98


def test_a_section_replaces_itself_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- one -->\nold\n<!-- /one -->\n\nkept\n")
    write_section("one", table(["a", "b"], [["1", "2"]]), page)
    write_section("two", "new", page)
    assert page.read_text() == (
        "# Page\n\n<!-- one -->\n| a | b |\n| --- | --- |\n| 1 | 2 |\n<!-- /one -->\n\nkept\n"
        "\n<!-- two -->\nnew\n<!-- /two -->\n"
    )


SAMPLES = 100
PUBLISHED = {
    "cot": {1: 4.03, 2: 7.28, 5: 14.29, 10: 21.48, 20: 29.55, 50: 40.68, 100: 49.0},
    "io": {1: 7.34, 2: 10.57, 5: 14.92, 10: 17.89, 20: 21.15, 50: 27.28, 100: 33.0},
}


def game_of_24(kind: str, k: int) -> float:
    counts = json.loads((Path(__file__).parents[1] / "data/game24_gpt4_correct.json").read_text())
    return sum(pass_at_k(correct, SAMPLES, k) for correct in counts[kind]) / len(counts[kind])


@pytest.mark.parametrize(
    ("kind", "k", "percent"),
    [(kind, k, percent) for kind, row in PUBLISHED.items() for k, percent in row.items()],
)
def test_pass_at_k_of_gpt_4_on_game_of_24(kind: str, k: int, percent: float) -> None:
    assert round(100 * game_of_24(kind, k), 2) == percent


def test_coverage_grows_by_a_power_law() -> None:
    law = coverage_law({k: game_of_24("cot", k) for k in PUBLISHED["cot"]})
    assert (round(law.intercept, 3), round(law.slope, 3)) == (1.183, -0.329)
    assert round(law.r_squared, 4) == 0.9997


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    subsets = [any(subset) for subset in combinations(right, k)]
    expected = sum(subsets) / len(subsets)
    assert pass_at_k(sum(right), len(right), k) == pytest.approx(expected)


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="there are 3 samples"):
        pass_at_k(1, 3, 4)
