"""The figures that the documents tell follow from the run that is recorded."""

from __future__ import annotations

from pathlib import Path

from loadtests.gsm8k import RECORDED, figures_of
from loadtests.report import RESULTS

README = Path(__file__).parents[2] / "README.md"


async def test_gsm8k_figures_are_those_of_the_recording() -> None:
    figures = await figures_of(RECORDED, "qwen2.5-coder-0.5b-instruct")
    assert figures in RESULTS.read_text()
    assert "100 problems" in figures
    for percent in ("27.0 %", "15.1 %"):
        assert percent in figures
        assert percent in README.read_text()
