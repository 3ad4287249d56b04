"""Start servers for a measurement, wait until they answer, read their CPU time, end them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens, and its first process."""

    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process and its children have used, in seconds."""
        return sum(_cpu_seconds(pid) for pid in _tree(self.pid))


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(
    command: Sequence[str],
    port: int,
    *,
    ready: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    patience: float = 300,
) -> Iterator[Server]:
    """Run `command`, wait until `ready` (a path) answers, and end the whole process group after.

    Its standard input is a pipe that closes when this process ends, however it ends.

    Raises:
        RuntimeError: it ended, or did not answer within `patience` seconds; the log tells.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = _start(command, output, environment)
        try:
            _wait(process, f"http://127.0.0.1:{port}{ready}", log, patience)
            yield Server(f"http://127.0.0.1:{port}", process.pid)
        finally:
            _end(process)


def _start(
    command: Sequence[str], output: IO[str], environment: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, patience: float) -> None:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}; see {log}")
        try:
            if httpx.get(url, timeout=10).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise RuntimeError(f"the server does not answer {url}; see {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    tree = [pid]
    for each in tree:
        tree.extend(child for child, parent in parents.items() if parent == each)
    return tree


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def _cpu_seconds(pid: int) -> float:
    """Return user and system time: fields 14 and 15 of proc(5), counted from the state."""
    try:
        fields = _stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK
