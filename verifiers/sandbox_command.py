"""The command line that puts a Python program into bubblewrap: what it sees, what it may do.

What it sees: /usr and the interpreter's own directory, read-only; six devices; an empty /tmp of
limited size to work in; its own source. No /proc and /sys, so that nothing shows other processes;
no /etc, no home, no environment, no terminal.

What it may do: nothing outside. It is in user, process, network, IPC, host-name and cgroup
namespaces of its own, an unprivileged user without capabilities that cannot make more namespaces,
behind a filter of system calls. It is process 1 of its namespace (`--as-pid-1`): when it ends,
however it ends, the kernel kills all that it started before anyone hears of the end, and nothing in
the sandbox can kill it. It dies with the server (`--die-with-parent`).

Limits that are each process's own are set inside by `prlimit`: there, the number of processes is
counted per user namespace (Linux 5.14 or newer), so each sandbox has a count of its own. The
kernel does not hold root to that number, so a server that is root first becomes `nobody`.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_NOBODY = "65534"
_PROGRAM = "/program.py"
_OPEN_FILES = 64
_REACHABLE = "/tmp/python"
_SHOW = (
    "mount -t tmpfs -o mode=755 tmpfs /tmp && mkdir -m 755 /tmp/python && "
    'mount --bind "$0" /tmp/python && exec "$@"'
)
"""Shows a directory, in a view of the file system of its own, and goes on with a command."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use."""

    seconds: float = 10.0
    """Of wall time; each of its processes may use as much CPU time, and one second more."""
    memory_mebibytes: int = 512
    """Address space of each of its processes, and resident memory of all together."""
    processes: int = 32
    """Threads count, too."""
    disk_mebibytes: int = 16
    """Of files in its working directory, which is kept in memory; 10,000 files at most."""
    output_bytes: int = 1 << 16
    """Of stdout and stderr together."""


def sandboxed(source: int, call_filter: int, limits: Limits) -> list[str]:
    """Return the command that runs a program; both arguments are file descriptors to read."""
    prefix = Path(sys.base_prefix)
    interpreter = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [
        *_without_root(prefix),
        *_bubblewrap(prefix, source, call_filter, limits),
        *_limited(limits),
        # Isolated, without site-packages, and without trying to write bytecode.
        *(str(interpreter), "-I", "-S", "-B", _PROGRAM),
    ]


def _bubblewrap(prefix: Path, source: int, call_filter: int, limits: Limits) -> list[str]:
    return [
        *("bwrap", "--unshare-all", "--unshare-user", *_without_more_namespaces()),
        *("--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox", "--cap-drop", "ALL"),
        *("--die-with-parent", "--new-session", "--as-pid-1", "--seccomp", str(call_filter)),
        *("--clearenv", "--setenv", "PATH", "/usr/bin"),
        *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin"),
        *("--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
        *([] if _everyones(prefix) else ["--ro-bind", _reachable(prefix), str(prefix)]),
        *("--dev", "/dev", "--remount-ro", "/dev"),
        *("--perms", "0700", "--size", str(limits.disk_mebibytes << 20), "--tmpfs", "/tmp"),
        *("--ro-bind-data", str(source), _PROGRAM, "--chdir", "/tmp", "--remount-ro", "/", "--"),
    ]


def _without_more_namespaces() -> list[str]:
    """Forbid user namespaces a second time, beside the filter of system calls.

    Bubblewrap does so by a file in /proc/sys, which in most containers nobody can write.
    """
    read_only = os.statvfs("/proc/sys").f_flag & os.ST_RDONLY
    return [] if read_only else ["--disable-userns"]


def _limited(limits: Limits) -> list[str]:
    """Return the command that sets what each process may use, and runs what follows it."""
    return [
        "/usr/bin/prlimit",
        f"--as={limits.memory_mebibytes << 20}",
        f"--cpu={math.ceil(limits.seconds) + 1}",
        f"--fsize={limits.disk_mebibytes << 20}",
        f"--nproc={limits.processes}",
        f"--nofile={_OPEN_FILES}",
        "--core=0",
        "--memlock=0",
        "--",
    ]


def _without_root(prefix: Path) -> list[str]:
    """Return the command that ends being root; first, what root alone can read is put in reach.

    It becomes bubblewrap without a process in between, whose death bubblewrap would not hear of.
    """
    if os.getuid() != 0:
        return []
    view = ["unshare", "--mount", "--", "/bin/sh", "-c", _SHOW, str(prefix)]
    become = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    return [*([] if _everyones(prefix) else view), *become]


def _reachable(prefix: Path) -> str:
    return str(prefix) if os.getuid() != 0 else _REACHABLE


def _everyones(prefix: Path) -> bool:
    return prefix.is_relative_to("/usr")
