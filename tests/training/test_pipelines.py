"""The shipped pipelines, whole, on a tiny model: stages follow each other, and are done once."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import training.recipes
from server.checkpoints.store import Checkpoint, CheckpointStore
from server.models import SilentProgress
from tests.training.measured import sums
from tests.training.tiny import LENGTH, write_rows
from training.recipe import Pipeline, RecipeError, read_recipe
from training.stages import StageError, train_all

RECIPES = Path(next(iter(training.recipes.__path__)))
PIPELINES = {
    path.stem: tree
    for path in sorted(RECIPES.glob("*.toml"))
    if "stages" in (tree := tomllib.loads(path.read_text()))
}
TRAINING = {
    "max_steps": 2,
    "batch_size": 4,
    "max_length": LENGTH,
    "dtype": "float32",
    "schedule": "constant",
}
SMALL: dict[str, dict[str, Any]] = {
    "sft": {},
    "format_tuning": {},
    "bradley_terry": {},
    "grpo": {"samples": 4, "max_tokens": 4, "kl": 0.01},
    "ppo": {"max_tokens": 4, "epochs": 1},
    "online_dpo": {"samples": 2, "max_tokens": 4},
    "distillation": {"mode": "samples", "samples": 2, "max_tokens": 8},
    "rejection_sampling": {"samples": 4, "max_tokens": 8, "rounds": 1, "most": 2},
    "constitutional": {
        "principles": ["Be kind."],
        "revisions": 1,
        "max_tokens": 8,
        "critique_request": "By {principle}",
        "revision_request": "Anew: {principle}",
    },
    "restart_exploration": {
        "earlier": 2,
        "algorithm": {"type": "ppo", "epochs": 1, "max_tokens": 4},
    },
}
"""What a method is made to do in a second."""
LETTERS = [{"verifier": "regex", "fields": {"pattern": "[a-z]"}}]
ROWS: dict[str, dict[str, Any]] = {
    "sft": {
        "messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    },
    "pairs": {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    "prompts": {"prompt": "Say 3", "reference": "3"},
}


def _changes(name: str, model: Path, directory: Path) -> Iterator[str]:
    """Say a pipeline's stages small, on rows of their kinds; no word of how they hang together."""
    files = {
        kind: write_rows(
            directory / f"{kind}.jsonl", [{**row, "problem": str(i)} for i in range(8)]
        )
        for kind, row in ROWS.items()
    }
    found = read_recipe(RECIPES / f"{name}.toml")
    assert isinstance(found, Pipeline)
    yield f"training={json.dumps(TRAINING)}"
    yield "gate=null"
    yield "promote=false"
    for stage in found.stages:
        place = f"stages.{stage.name}"
        method = type(stage.method).model_fields["type"].default
        data = {"train": [str(files[stage.method.reads.kind])], "task": None}
        small = {"type": method, "learning_rate": 1e-3, **SMALL[method]}
        yield f"{place}.data={json.dumps(data)}"
        yield f"{place}.method={json.dumps(small)}"
        if not stage.model.startswith("stage:"):
            yield f"{place}.model={model}"
        if stage.rollouts is not None:
            yield f"{place}.rollouts={json.dumps({'backend': 'model'})}"
        if not any(named.startswith("stage:") for named in stage.models() if "reward" in named):
            yield f"{place}.rewards={json.dumps(_rewards(method))}"


def _rewards(method: str) -> list[dict[str, Any]]:
    return [] if method == "constitutional" else LETTERS


def _small(name: str, model: Path, directory: Path, *more: str) -> Pipeline:
    changes = [*_changes(name, model, directory), *more]
    found = read_recipe(RECIPES / f"{name}.toml", changes)
    assert isinstance(found, Pipeline)
    return found


def _train(chosen: Pipeline, directory: Path, lines: list[str]) -> Checkpoint:
    store = CheckpointStore(directory / "store")
    return train_all(chosen, directory / "run", store, SilentProgress(), lines.append)


def _read(directory: Path, stage: str) -> Any:
    return json.loads((directory / "run" / stage / "recipe.json").read_text())


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_runs_from_end_to_end_and_only_once(
    brief: Path, tmp_path: Path, name: str
) -> None:
    chosen = _small(name, brief, tmp_path)
    lines: list[str] = []
    made = _train(chosen, tmp_path, lines)
    assert made.name == chosen.stages[-1].name
    logs = {
        stage.name: (tmp_path / "run" / stage.name / "log.jsonl").read_text()
        for stage in chosen.stages
    }
    for stage in chosen.stages:
        for field in ("model", "reference", "teacher"):
            named = getattr(stage, field) or ""
            if named.startswith("stage:"):
                followed = _read(tmp_path, stage.name)[field]
                assert followed.startswith(f"checkpoint:{named.removeprefix('stage:')}@")
    assert _train(_small(name, brief, tmp_path), tmp_path, lines).spec == made.spec
    assert logs == {stage: (tmp_path / "run" / stage / "log.jsonl").read_text() for stage in logs}
    kept = CheckpointStore(tmp_path / "store").checkpoints()
    assert sorted(each.name for each in kept) == sorted(logs)


def test_a_reward_names_the_stage_that_makes_it(brief: Path, tmp_path: Path) -> None:
    chosen = _small("rlhf", brief, tmp_path)
    _train(chosen, tmp_path, [])
    store = CheckpointStore(tmp_path / "store")
    [reward] = [each for each in store.checkpoints() if each.name == "rlhf-reward"]
    assert reward.manifest.kind == "orm"
    [said] = _read(tmp_path, "rlhf-tuned")["rewards"]
    assert said["verifier"]["model"] == f"checkpoint:{reward.spec}"
    log = (tmp_path / "run" / "rlhf-tuned" / "log.jsonl").read_text().splitlines()
    scores = [row["rewards/outcome_reward"] for row in map(json.loads, log) if "reward" in row]
    assert scores
    assert all(0 < score < 1 for score in scores)


@pytest.mark.parametrize(
    "verifier",
    [
        {"type": "outcome_reward", "backend": "transformers", "model": "stage:rlhf-tuned"},
        {"type": "outcome_reward", "backend": "transformers", "model": "stage:nobody"},
    ],
)
def test_a_reward_that_names_no_earlier_stage_is_refused(verifier: dict[str, str]) -> None:
    change = f"stages.rlhf-tuned.rewards={json.dumps([{'verifier': verifier}])}"
    missing = verifier["model"].removeprefix("stage:")
    with pytest.raises(RecipeError, match=f"'rlhf-tuned': no stage '{missing}' is before it"):
        read_recipe(RECIPES / "rlhf.toml", [change])


WHOLE = "adapter=null"
"""The scripted server holds no adapters."""


@pytest.mark.slow
def test_a_stage_that_gained_nothing_ends_expert_iteration(brief: Path, tmp_path: Path) -> None:
    task, server = sums(tmp_path / "sums.jsonl", 6), {"engine": "scripted"}
    gate = {"task": task, "server": server, "bar": 0.2, "problems": 6}
    chosen = _small("expert_iteration", brief, tmp_path, WHOLE, f"gate={json.dumps(gate)}")
    with pytest.raises(StageError, match=r"gain 0.0 points.*the bar is \+20.0: nothing goes on"):
        _train(chosen, tmp_path, [])
    assert not (tmp_path / "run" / "expert-iteration-2").exists()


@pytest.mark.slow
def test_the_closed_loop_promotes_what_passes(brief: Path, tmp_path: Path) -> None:
    gate = {
        "task": sums(tmp_path / "sums.jsonl", 6),
        "server": {"engine": "scripted"},
        "parent": str(brief),
    }
    last = "stages.closed-loop"
    more = [WHOLE, f"{last}.gate={json.dumps(gate)}", f"{last}.promote=true"]
    lines: list[str] = []
    made = _train(_small("closed_loop", brief, tmp_path, *more), tmp_path, lines)
    assert made.promoted
    assert made.manifest.config["gate"]["parent"] == str(brief)
    assert f"{made.spec} is promoted" in lines
