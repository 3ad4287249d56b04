"""Several processes train one model: `accelerate launch`, over a real process group."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from server.checkpoints.store import CheckpointStore
from tests.training.tiny import write_rows

ROW = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}


@pytest.mark.slow
def test_two_processes_make_one_checkpoint(tiny: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [ROW] * 16)
    (tmp_path / "recipe.toml").write_text(
        f'name = "two"\nmodel = "{tiny}"\n[method]\ntype = "sft"\nlearning_rate = 3e-3\n'
        f'[data]\ntrain = ["{rows}"]\n'
        '[training]\nmax_steps = 4\nbatch_size = 2\nmax_length = 256\ndtype = "float32"\n'
    )
    launch = f"{Path(sys.executable).parent}/accelerate launch --cpu --num_processes 2"
    options = "--num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    out, root = tmp_path / "run", tmp_path / "store"
    done = subprocess.run(
        f"{launch} {options} -m training {tmp_path}/recipe.toml --out {out} --root {root}".split(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [checkpoint] = CheckpointStore(root).checkpoints()
    assert json.loads((out / "result.json").read_text())["version"] == checkpoint.version
    losses = [
        row["loss"]
        for row in map(json.loads, (out / "log.jsonl").read_text().splitlines())
        if "loss" in row
    ]
    assert len(losses) == 4, "one process alone writes the log"
    assert losses[-1] < losses[0]
