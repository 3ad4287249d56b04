"""The figures that the documents tell follow from the run that is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.gsm8k import RECORDED, figures_of
from loadtests.offline import Played
from loadtests.pools import POOLS, open_pool
from loadtests.report import RESULTS
from loadtests.selection import curves_of, section
from loadtests.worth import KEPT as KEPT_WORTH
from loadtests.worth import contenders
from loadtests.worth import section as worth_section

README = Path(__file__).parents[2] / "README.md"
KEPT = sorted(path.parent for path in POOLS.glob("*/manifest.json"))


async def test_gsm8k_figures_are_those_of_the_recording() -> None:
    figures = await figures_of(RECORDED, "qwen2.5-coder-0.5b-instruct")
    assert figures in RESULTS.read_text()
    assert "100 problems" in figures
    for percent in ("27.0 %", "15.1 %"):
        assert percent in figures
        assert percent in README.read_text()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_the_tables_of_selection_are_those_of_the_pools(path: Path) -> None:
    pool = open_pool(path)
    assert len(pool.recorded) == len(pool.manifest.problems)
    assert section(pool, curves_of(pool)) in RESULTS.read_text()


def test_what_strategies_are_worth_is_what_was_played() -> None:
    kept = json.loads(KEPT_WORTH.read_text())
    assert len(kept["pools"]) == len(KEPT)
    for title, played in kept["pools"].items():
        rows = {name: [Played(*row) for row in each] for name, each in played.items()}
        assert set(rows) == {each.name for each in contenders()}
        assert worth_section(title, rows) in RESULTS.read_text()
