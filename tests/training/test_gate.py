"""The gate: from an evaluation to a promotion, a refusal, or the end of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from server.checkpoints.store import CheckpointError, CheckpointStore
from server.models import SilentProgress
from tests.training.measured import Servers, boxed, first_of, publish, sums
from tests.training.tiny import recipe, write_rows
from training.evaluation.evaluate import evaluate
from training.evaluation.gate import GateSettings
from training.recipe import Pipeline, Recipe, RecipeError, read_recipe
from training.stages import StageError, train_all
from verifiers.types import Prompt

SCRIPTED = {"engine": "scripted"}


def _better(prompt: Prompt, settings: Mapping[str, Any]) -> str:
    """Be right on a quarter before, on all after."""
    return boxed(prompt, right="store" in settings["model"] or first_of(prompt) % 4 == 0)


@pytest.mark.parametrize(("bar", "passes"), [(0.4, True), (0.9, False)])
def test_only_what_reaches_the_bar_is_promoted(
    tiny: Path, tmp_path: Path, bar: float, passes: bool
) -> None:
    store = CheckpointStore(tmp_path / "store")
    gate = GateSettings(task=sums(tmp_path / "sums.jsonl", 24), bar=bar)
    checkpoint = publish(store, tiny, config={"model": str(tiny), "gate": gate.model_dump()})
    with pytest.raises(CheckpointError, match="it was not evaluated"):
        store.promote(checkpoint.spec)
    found = evaluate(checkpoint, gate, store, directory=tmp_path / "w", serve=Servers(_better))
    assert found.gain == 0.75
    assert 0.4 < found.lower < 0.75
    if passes:
        assert store.promote(checkpoint.spec).promoted
        return
    figures = rf"gain \+75.0 points, 95 % interval \+.*; the recipe's bar is \+{bar * 100:.1f}"
    with pytest.raises(CheckpointError, match=figures):
        store.promote(checkpoint.spec)
    assert store.promote(checkpoint.spec, force=True).promoted
    [promotion] = store.history("tiny").promotions
    assert promotion.forced
    assert promotion.reason is not None
    assert "gain +75.0 points" in promotion.reason


def _recipe(tiny: Path, tmp_path: Path, **tables: Any) -> Recipe:
    rows = write_rows(
        tmp_path / "rows.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": "2+2?"},
                    {"role": "assistant", "content": "4"},
                ]
            }
        ]
        * 4,
    )
    gate = {"task": sums(tmp_path / "sums.jsonl", 6), "server": SCRIPTED, **tables.pop("gate", {})}
    return recipe(tiny, "sft", rows, training={"max_steps": 1}, gate=gate, **tables)


def _train(chosen: Recipe | Pipeline, tmp_path: Path, lines: list[str]) -> Any:
    store = CheckpointStore(tmp_path / "store")
    return train_all(chosen, tmp_path / "run", store, SilentProgress(), lines.append)


@pytest.mark.slow
def test_a_recipe_trains_measures_and_promotes(tiny: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    made = _train(_recipe(tiny, tmp_path, promote=True), tmp_path, lines)
    assert made.promoted
    assert f"{made.spec} is promoted" in lines
    assert any("gain 0.0 points" in line and "the bar is 0.0" in line for line in lines)
    report = (tmp_path / "run" / "report.html").read_text()
    assert made.spec in report
    assert "95 % interval 0.0 to 0.0" in report


@pytest.mark.slow
def test_a_stage_below_its_bar_stops_the_pipeline(tiny: Path, tmp_path: Path) -> None:
    first = _recipe(tiny, tmp_path, gate={"bar": 0.2})
    second = first.model_copy(update={"name": "second", "model": f"stage:{first.name}"})
    chosen, lines = Pipeline(name="two", stages=(first, second)), list[str]()
    with pytest.raises(StageError, match=r"gain 0.0 points.*the bar is \+20.0: nothing goes on"):
        _train(chosen, tmp_path, lines)
    assert not (tmp_path / "run" / "second").exists()
    # Asked again, it is neither trained nor measured again, and no better.
    before = (tmp_path / "run" / first.name / "log.jsonl").read_text()
    with pytest.raises(StageError, match=r"gain 0.0 points"):
        _train(chosen, tmp_path, lines)
    assert (tmp_path / "run" / first.name / "log.jsonl").read_text() == before


def test_promotion_needs_a_gate(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"say `\[gate\]`"):
        recipe(tiny, "sft", tmp_path / "rows.jsonl", promote=True)


def test_a_gate_may_name_an_earlier_stage_as_parent(tmp_path: Path) -> None:
    text = """
    model = "tiny"
    method = { type = "sft" }
    data = { train = ["rows.jsonl"] }
    [[stages]]
    name = "cold"
    [[stages]]
    name = "warm"
    model = "stage:cold"
    gate = { task = "gsm8k", parent = "stage:PARENT" }
    """
    path = tmp_path / "two.toml"
    path.write_text(text.replace("PARENT", "cold"))
    chosen = read_recipe(path)
    assert isinstance(chosen, Pipeline)
    path.write_text(text.replace("PARENT", "hot"))
    with pytest.raises(RecipeError, match="no stage 'hot' is before it"):
        read_recipe(path)
