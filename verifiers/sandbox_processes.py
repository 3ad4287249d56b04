"""The processes of a sandbox, seen from outside: their memory, and their end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and all below it."""
    return sum(_resident(each) for each in _family(pid))


def files_inside(pid: int, disk_bytes: int) -> int:
    """Return the number of files in a sandbox's /tmp: their names take memory that no limit counts.

    It is told by its size from what a sandbox in the making has there.
    """
    for first in _first_processes(pid):
        with suppress(OSError):
            found = os.statvfs(f"/proc/{first}/root/tmp")
            if found.f_blocks * found.f_frsize == disk_bytes:
                return found.f_files - found.f_ffree
    return 0


def kill_inside(pid: int) -> None:
    """Kill the first process of the sandbox below bubblewrap's process, if it has one yet.

    Bubblewrap itself is left to end by that: killed, it would not wait for what is inside.
    """
    for first in _first_processes(pid):
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)


def _first_processes(pid: int) -> Iterator[int]:
    """Find processes that are number 1 in a process namespace below ours."""
    ours = len(_numbers("self"))
    for each in _family(pid):
        numbers = _numbers(str(each))
        if len(numbers) > ours and numbers[-1] == "1":
            yield each


def _numbers(pid: str) -> list[str]:
    """Return the process's number in each namespace from ours down."""
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("NSpid:"):
            return line.split()[1:]
    return []


def _family(pid: int) -> Iterator[int]:
    yield pid
    for child in _children(pid):
        yield from _family(child)


def _children(pid: int) -> Iterator[int]:
    for task in _tasks(pid):
        yield from map(int, _read(task / "children").split())


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []


def _resident(pid: int) -> int:
    counts = _read(Path(f"/proc/{pid}/statm")).split()
    return int(counts[1]) * _PAGE if counts else 0


def _read(path: Path) -> str:
    """Return what /proc says; a process may be gone by now."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
