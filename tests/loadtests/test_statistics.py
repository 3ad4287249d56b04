"""The bootstrap against what theory says, and the page that results are written to."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.estimators import paired_bootstrap
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
