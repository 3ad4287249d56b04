"""Files that are whole or not there, whatever is killed when: written, flushed, renamed, flushed.

A rename replaces a file in one step, but reaches the disk only when its directory is flushed, and
may reach it before the file's bytes unless those were flushed first.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_file(path: Path, text: str) -> None:
    """Replace a file in one step; of several writers one at a time may be here."""
    draft = path.with_name(f".{path.name}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file's bytes, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(directory: Path) -> None:
    """Flush everything in a directory, and it."""
    for folder, _, files in os.walk(directory):
        for name in files:
            flush(Path(folder) / name)
        flush(Path(folder))


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file or directory that is there; it ends with the process.

    Raises BlockingIOError if another holds it and `wait` is false.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
