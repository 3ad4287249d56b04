"""Run a child process to its end, looking at it now and then.

Whatever is heavy or can fail in many ways runs in a child: its memory is given back when it ends,
and every failure becomes one error with the end of its log.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.2
TAIL_LINES = 8


class ChildFailed(Exception):
    """The child process ended with an error; the message is the end of what it printed."""


def run(
    command: Sequence[str],
    *,
    log: Path,
    tick: Callable[[], None],
    environment: Mapping[str, str],
) -> None:
    """Run `command` with its output in `log` and `environment` added to ours.

    `tick` is called several times a second. The child's stdin is a pipe that closes when this
    process ends, however it ends. Raises ChildFailed.
    """
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        ) as process,
    ):
        try:
            while process.poll() is None:
                tick()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        end = "\n".join(lines[-TAIL_LINES:])
        raise ChildFailed(end or f"{command[0]} ended with code {process.returncode}")


def end_with_parent() -> None:
    """In a child that `run` started: end when the parent does, even if that was killed."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def size_of(paths: Iterable[Path]) -> int:
    """Add up the bytes of files that a child may be moving about."""
    size = 0
    for path in paths:
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size
