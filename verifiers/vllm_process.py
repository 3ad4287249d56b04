"""Processes of a vLLM engine as children of ours, and what ends them if ours dies.

Killed, our process would leave them spinning: a guard, a process of its own, waits for the end of
its standard input and then kills them. It is this file run as a script.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

SHUTDOWN_SECONDS = 10.0
"""How long vLLM's processes may take to end by themselves before they are killed."""


class EngineProcesses:
    """An `AsyncLLM` with its children under guard; `start` makes it."""

    def __init__(self, core: Any, children: Iterable[multiprocessing.process.BaseProcess]) -> None:
        self.core = core
        pids = [str(child.pid) for child in children if child.pid is not None]
        self._guard = subprocess.Popen(
            # -P: beside this file lies a `types.py`, which is not Python's.
            [sys.executable, "-P", __file__, *pids],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C must not end it
        )

    @classmethod
    async def start(cls, make: Callable[[], Any]) -> EngineProcesses:
        """Run `make`, which returns an `AsyncLLM`, in another thread.

        If cancelled, it kills what it has started.
        """
        others = set(multiprocessing.active_children())
        starting = asyncio.ensure_future(asyncio.to_thread(_make, make))
        try:
            core = await asyncio.shield(starting)
        except asyncio.CancelledError:
            while not starting.done():
                _kill_children(keep=others)
                await asyncio.wait([starting], timeout=0.5)
            _kill_children(keep=others)
            raise
        return cls(core, set(multiprocessing.active_children()) - others)

    async def aclose(self) -> None:
        """End the processes: SIGTERM first, SIGKILL after ten seconds."""
        if self.core.output_handler is not None and not self.core.get_num_unfinished_requests():
            self.core.output_handler.cancel()  # it would log the end of its processes as an error
        await asyncio.to_thread(self.core.shutdown, SHUTDOWN_SECONDS)
        self._guard.kill()
        self._guard.communicate()


def use_all_allowed_cores() -> None:
    """Bind one thread to each core; by itself vLLM leaves one core to the scheduler.

    Its worker processes inherit these variables; one that is already set wins.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))


def _make(make: Callable[[], Any]) -> Any:
    with _interrupts_blocked():
        return make()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start child processes that Ctrl-C does not reach: they inherit this thread's signal mask.

    vLLM's processes stop at once on SIGINT, which a terminal sends to the whole process group;
    ours drains first and then ends them with SIGTERM.
    """
    # It unblocks SIGINT when it starts, so it has to run before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill_children(keep: set[multiprocessing.process.BaseProcess]) -> None:
    """End this process's children, and theirs, at once, but for those to keep."""
    from vllm.utils.system_utils import kill_process_tree

    for child in set(multiprocessing.active_children()) - keep:
        if child.pid is not None:
            kill_process_tree(child.pid)


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
