"""Killed, we leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

PROGRAM = """
import multiprocessing, os, signal, time
from verifiers.vllm_process import EngineProcesses

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(120,))
    child.start()
    kept = EngineProcesses(None, [child])
    print(child.pid, flush=True)
    time.sleep(1)  # the guard has begun to watch
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_the_guard_ends_what_a_killed_server_leaves() -> None:
    started = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=30
    )
    child = int(started.stdout)
    until = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "it still runs"
        time.sleep(0.05)
