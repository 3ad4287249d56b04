"""`forethought serve` as a process of its own, for tests."""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.store.opening import MEMORY

FORETHOUGHT = Path(sys.executable).with_name("forethought")


@dataclass(frozen=True)
class Served:
    """A server that listens."""

    process: subprocess.Popen[str]
    url: str
    announcement: str

    def end(self, seconds: float = 30.0) -> tuple[int, str]:
        """Wait for its end; return its exit code and what it wrote to stderr."""
        _, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, errors


def environment(**settings: str) -> dict[str, str]:
    """Return the environment without settings of the machine's own, with these."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FORETHOUGHT_")}
    settings = {"store": MEMORY, **settings}  # nothing is written into the home
    return kept | {f"FORETHOUGHT_{key.upper()}": value for key, value in settings.items()}


@contextmanager
def serving(*options: str, patience: float = 60, **settings: str) -> Iterator[Served]:
    """Start a server, by default with the scripted engine on a free port, and end it after.

    `patience`: seconds until it must listen.
    """
    command = [str(FORETHOUGHT), "serve", "--port", "0", *options]
    if "--engine" not in options and "engine" not in settings:
        command += ["--engine", "scripted"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**settings),
    ) as process:
        try:
            announcement = _read_until(process, "Ctrl-C", seconds=patience)
            found = re.search(r"http://[\d.]+:\d+", announcement)
            assert found, announcement
            yield Served(process, found[0], announcement)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def _read_until(process: subprocess.Popen[str], text: str, seconds: float) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    pipe, end, read = process.stdout.fileno(), time.monotonic() + seconds, b""
    while text.encode() not in read:
        ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
        piece = os.read(pipe, 1 << 16) if ready else b""
        if not piece:
            process.kill()
            raise AssertionError(f"no {text!r} in {read!r}; stderr: {process.stderr.read()}")
        read += piece
    return read.decode()
