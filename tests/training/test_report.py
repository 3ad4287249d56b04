"""The report of a run: its curves, and what it says of runs that ended well and badly."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest

from server.checkpoints.store import CheckpointStore
from server.models import SilentProgress
from tests.training.tiny import recipe, write_rows
from training.callbacks import TrainingDiverged
from training.curves import panels, plot_log, read_log, smoothed
from training.report import write_report
from training.stages import train_one

PNG = b"\x89PNG\r\n\x1a\n"


def test_of_equal_steps_the_last_line_counts(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "time": 1.0, "loss": 3.0},
        {"step": 2, "time": 2.0, "loss": 2.5},
        {"step": 1, "time": 9.0, "loss": 2.9, "kl": 0.1},
    ]
    log = read_log(write_rows(tmp_path / "log.jsonl", rows))
    assert log["loss"] == {1: 2.9, 2: 2.5}
    assert list(log["loss"]) == [1, 2]
    assert log["kl"] == {1: 0.1}


def test_what_is_drawn_together() -> None:
    names = (
        *("loss", "eval_loss", "train_loss", "reward", "reward_std", "rewards/margins"),
        *("rewards/math/mean", "kl", "completions/mean_length", "completions/max_length"),
        *("mean_token_accuracy", "rewards/accuracies", "grad_norm", "learning_rate"),
    )
    found = {
        title: sorted(curves) for title, curves in panels({n: {1: 0.5} for n in names}).items()
    }
    assert found == {
        "reward": ["reward", "rewards/margins", "rewards/math/mean"],
        "loss": ["eval_loss", "loss"],
        "KL": ["kl"],
        "length": ["completions/mean_length"],
        "accuracy": ["mean_token_accuracy", "rewards/accuracies"],
    }


def test_no_number_is_drawn_as_none() -> None:
    assert panels({"loss": {1: math.nan, 2: 1.0}, "kl": {1: math.nan}}) == {
        "loss": {"loss": {2: 1.0}}
    }


def test_the_smooth_line_neither_lags_nor_bends() -> None:
    straight = [float(step) for step in range(90)]
    assert smoothed(straight) == pytest.approx(straight)
    assert smoothed([1.0, 5.0, 3.0]) == [1.0, 5.0, 3.0]  # too short to be smoothed
    bumpy = [0.0, 1.0] * 30  # two neighbours on either side
    assert smoothed(bumpy)[0] == pytest.approx(1 / 3)  # of 0, 1 and 0
    assert smoothed(bumpy)[10] == pytest.approx(2 / 5)
    assert smoothed(bumpy)[11] == pytest.approx(3 / 5)


def test_nothing_to_draw_draws_nothing(tmp_path: Path) -> None:
    assert not plot_log({"grad_norm": {1: 1.0}}, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def _write(directory: Path, **files: object) -> None:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


def test_a_report_stands_alone(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 1 / step, "reward": step / 9} for step in range(1, 10)]
    write_rows(tmp_path / "log.jsonl", rows)
    _write(
        tmp_path,
        recipe={"name": "a<b", "model": "tiny", "method": {"type": "sft"}},
        result={"name": "a", "version": "0123456789ab"},
        data={
            "rows": 7,
            "files": {"rows.jsonl": "ab" * 32},
            "left_out": {"empty": 2},
            "faults": ["rows.jsonl:3: chosen: empty"],
        },
    )
    page = write_report(tmp_path).read_text()
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    assert 'src="data:image/png;base64,' in page
    assert "<title>a&lt;b</title>" in page
    for told in ("9 steps; finished", "a@0123456789ab", "left out: empty", "chosen: empty"):
        assert told in page
    assert "http" not in page
    assert "$" not in page


def test_a_run_that_diverged_is_reported(tmp_path: Path) -> None:
    write_rows(tmp_path / "log.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}])
    _write(tmp_path, recipe={"name": "a"})
    page = write_report(tmp_path).read_text()
    assert "diverged: at step 2, loss is no number" in page
    assert "<img" in page


def test_a_run_without_a_step_is_reported(tmp_path: Path) -> None:
    _write(tmp_path, recipe={"name": "a"})
    page = write_report(tmp_path).read_text()
    assert "0 steps; no checkpoint yet" in page
    assert "<img" not in page


@pytest.mark.parametrize("diverges", [False, True])
def test_training_ends_with_a_report(tiny: Path, tmp_path: Path, diverges: bool) -> None:
    said = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": said}] * 4)
    method = {"type": "sft", "learning_rate": 1e20 if diverges else 1e-3}
    chosen = recipe(tiny, method, rows, training={"max_steps": 3})
    store, out = CheckpointStore(tmp_path / "store"), tmp_path / "run"
    with pytest.raises(TrainingDiverged) if diverges else nullcontext():
        train_one(chosen, out, store, SilentProgress(), print)
    page = (out / "report.html").read_text()
    assert ("diverged" in page) == diverges
    assert ("3 steps; finished" in page) != diverges
    assert "sha256" in page
