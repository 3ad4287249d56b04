"""Ends vLLM's processes if ours dies without doing so; killed, it would leave them spinning.

A process of its own, `python vllm_guard.py PID…`, that waits for the end of its standard input.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable


class Guard:
    """Watches over processes, and their children, for as long as this process lives."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *map(str, pids)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C must not end it
        )

    def dismiss(self) -> None:
        """End the watch."""
        self._process.kill()
        self._process.communicate()


def _watch(pids: Iterable[int]) -> None:
    import psutil  # type: ignore[import-untyped]

    watched = [psutil.Process(pid) for pid in pids]
    sys.stdin.buffer.read()
    for process in watched:
        with contextlib.suppress(psutil.NoSuchProcess):
            for member in (process, *process.children(recursive=True)):
                member.kill()


if __name__ == "__main__":
    _watch(map(int, sys.argv[1:]))
