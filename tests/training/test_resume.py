"""Runs that are killed go on and end as though nothing had been; runs that diverge say so."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from safetensors.torch import load_file

from server.checkpoints.store import CheckpointStore
from tests.training.tiny import begin, logged, recipe, write_rows
from training.callbacks import TrainingDiverged, last_whole_state
from training.commands.train import train
from training.run import RunError

STEPS, INTERVAL = 60, 4


def rows(tmp_path: Path) -> Path:
    turns = [("user", "2+2?"), ("assistant", "4, as two and two are four.")]
    said = [
        {"messages": [{"role": role, "content": f"{text} {i}"} for role, text in turns]}
        for i in range(20)
    ]
    return write_rows(tmp_path / "rows.jsonl", said)


def written(tiny: Path, tmp_path: Path) -> Path:
    path = tmp_path / "resumed.toml"
    path.write_text(
        f'model = "{tiny}"\n[method]\ntype = "sft"\nlearning_rate = 1e-3\n'
        f'[data]\ntrain = ["{rows(tmp_path)}"]\n'
        f"[training]\nmax_steps = {STEPS}\nbatch_size = 4\nsave_steps = {INTERVAL}\n"
        'dtype = "float32"\n'
    )
    return path


def steps(directory: Path) -> list[int]:
    """Read the steps whose loss was logged, in order of writing, but for a torn last line."""
    path = directory / "log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [row["step"] for row in map(json.loads, lines) if "loss" in row]


def begun_state(directory: Path) -> bool:
    """Whether a state is being written."""
    states = directory.glob("checkpoint-*")
    return any(not (state / "whole").exists() for state in states)


def kill_when(command: list[str], reached: Callable[[], bool]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        while process.poll() is None and not reached():
            time.sleep(0.0005)
        assert process.poll() is None, "it ended before it was killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_killed_runs_end_as_an_uninterrupted_one(tiny: Path, tmp_path: Path) -> None:
    path, directory, root = written(tiny, tmp_path), tmp_path / "cut", tmp_path / "store"
    command = [sys.executable, "-m", "training", str(path), "--out", str(directory)]
    command += ["--root", str(root)]
    choose = random.Random(0)
    kills: list[Callable[[], bool]] = []
    for first in (INTERVAL + 1, 20):
        step = choose.randrange(first, first + 10)
        kills.append(lambda step=step: step in steps(directory))  # type: ignore[misc]
    kills.insert(1, lambda: max(steps(directory)) > 18 and begun_state(directory))
    for reached in kills:
        before = len(steps(directory))
        kill_when(command, reached)
        assert not (directory / "result.json").exists()
        if before:
            earlier, resumed = max(steps(directory)[:before]), steps(directory)[before]
            assert 1 <= resumed <= earlier + 1
            assert earlier - resumed + 1 <= INTERVAL
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    whole = [*command[:5], str(tmp_path / "whole"), "--root", str(tmp_path / "other")]
    subprocess.run(whole, check=True, capture_output=True, env=environment)
    cut, uncut = (CheckpointStore(place).checkpoints() for place in (root, tmp_path / "other"))
    assert len(cut) == len(uncut) == 1
    ours, theirs = (load_file(each[0].path / "model.safetensors") for each in (cut, uncut))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert sorted(set(steps(directory))) == steps(tmp_path / "whole") == list(range(1, STEPS + 1))
    # Once more: it is done, and says so without training.
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert len(CheckpointStore(root).checkpoints()) == 1


def test_a_state_that_is_not_whole_is_passed_over(tiny: Path, tmp_path: Path) -> None:
    said = recipe(tiny, "sft", rows(tmp_path), training={"save_steps": 3, "max_steps": 6})
    run = begin(said, tmp_path)
    said.method.train(run)
    assert last_whole_state(run.directory) == run.directory / "checkpoint-6"
    first = run.result
    (run.directory / "result.json").unlink()
    torn = run.directory / "checkpoint-6"
    (torn / "whole").unlink()
    (torn / "model.safetensors").write_bytes(b"torn")
    again = begin(said, tmp_path)
    said.method.train(again)
    assert again.result == first
    losses = logged(again, "loss")
    assert losses[6:] == losses[3:6]


def test_another_recipe_in_a_run_s_directory_is_refused(tiny: Path, tmp_path: Path) -> None:
    said = recipe(tiny, "sft", rows(tmp_path))
    begin(said, tmp_path)
    other = recipe(tiny, {"type": "sft", "rationale_weight": 2}, rows(tmp_path))
    with pytest.raises(RunError, match=r"another recipe: method\.rationale_weight differ"):
        begin(other, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(tiny: Path, tmp_path: Path) -> None:
    said = recipe(tiny, {"type": "sft", "learning_rate": 1e30}, rows(tmp_path))
    run = begin(said, tmp_path)
    with pytest.raises(TrainingDiverged, match=r"step \d: (loss|grad_norm) is (nan|inf)"):
        said.method.train(run)
    assert run.result is None
    assert run.store.names() == []


def test_the_command_says_it_and_publishes_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, root = written(tiny, tmp_path), tmp_path / "store"
    with pytest.raises(typer.Exit) as ended:
        train(path, set_=["method.learning_rate=1e30"], out=tmp_path / "run", root=root)
    assert ended.value.exit_code == 1
    assert "lower the learning rate" in capsys.readouterr().err
    with pytest.raises(typer.Exit):
        train(path, set_=['data.train=["none.jsonl"]'], out=tmp_path / "other", root=root)
    assert "none.jsonl: no such file" in capsys.readouterr().err
    assert not root.exists()
