"""The server that an evaluation asks: it says why it does not start, and ends in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from training.evaluation.server import served
from verifiers.errors import EngineError


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match="there is no such setting; did you mean engine"),
        served({"engin": "scripted"}, tmp_path),
    ):
        pass


@pytest.mark.slow
def test_a_server_ends_with_who_started_it_even_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from training.evaluation.server import served\n"
        "with served({'engine': 'scripted'}, pathlib.Path(sys.argv[1])) as url:\n"
        "    print(url, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/readyz").is_success
        os.kill(process.pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            httpx.get(f"{url}/readyz", timeout=1)
        except httpx.TransportError:
            return
        time.sleep(0.1)
    raise AssertionError("it still answers")
