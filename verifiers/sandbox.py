"""Programs that nobody trusts, run on this machine: bounded, watched, and gone when they end.

`verifiers.sandbox_command` says what a program sees and may do, `verifiers.sandbox_service` runs it
on another machine instead.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from asyncio.subprocess import Process
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from verifiers.sandbox_command import Limits, sandboxed
from verifiers.sandbox_filter import system_call_filter
from verifiers.sandbox_processes import files_inside, kill_inside, resident_bytes

KilledBy: TypeAlias = Literal["time", "memory", "output"]

_WATCH_SECONDS = 0.03
_PIECE = 1 << 16
_MOST_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Program:
    """A Python program, and what it reads. Only the standard library is there."""

    source: str
    stdin: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended."""

    status: int | None
    """Its exit status, 128 + n where signal n ended it; None where a limit did."""
    stdout: str
    stderr: str
    seconds: float
    killed_by: KilledBy | None = None

    @property
    def ok(self) -> bool:
        """Whether it ended by itself, and well."""
        return self.status == 0


class Sandbox(Protocol):
    """Where programs run: `LocalSandbox`, or `verifiers.sandbox_service.RemoteSandbox`."""

    async def run(self, program: Program, limits: Limits) -> Outcome:
        """Run a program to its end, or to the first limit. Cancelling kills it.

        Raises VerifierUnavailable or VerifierError: it could not be run.
        """

    async def unavailable(self) -> str | None:
        """Try whether programs can be run; say why not."""

    async def aclose(self) -> None:
        """Release everything."""


class LocalSandbox:
    """Runs programs in bubblewrap, at most `at_once` at a time; the others wait."""

    def __init__(self, at_once: int | None = None) -> None:
        self._slots = asyncio.Semaphore(at_once or os.cpu_count() or 1)

    async def run(self, program: Program, limits: Limits) -> Outcome:
        """Run a program to its end, or to the first limit. Nothing of it is left afterwards."""
        async with self._slots:
            with (
                _readable(program.source.encode()) as source,
                _readable(system_call_filter()) as call_filter,
            ):
                process = await _start(
                    sandboxed(source, call_filter, limits), (source, call_filter)
                )
            try:
                return await _attend(process, program.stdin.encode(), limits)
            finally:
                await _end(process)

    async def unavailable(self) -> str | None:
        """Run a program that does nothing; say what hinders it."""
        if shutil.which("bwrap") is None:
            return "there is no sandbox: bubblewrap (`bwrap`) is not installed"
        try:
            outcome = await self.run(Program(""), Limits())
        except OSError as error:
            return f"there is no sandbox: {error}"
        if outcome.ok:
            return None
        return f"there is no sandbox: {outcome.stderr.strip() or 'it does not start'}"

    async def aclose(self) -> None:
        """Release nothing: programs end with the calls that run them."""


class _Exceeded(Exception):
    def __init__(self, limit: KilledBy) -> None:
        super().__init__(limit)
        self.limit = limit


class _Output:
    """What a program has written so far, on both of its streams together."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self.stdout = bytearray()
        self.stderr = bytearray()

    async def read(self, stream: asyncio.StreamReader, kept: bytearray) -> None:
        while piece := await stream.read(_PIECE):
            kept += piece[: max(0, self._left)]
            self._left -= len(piece)
            if self._left < 0:
                raise _Exceeded("output")


async def _attend(process: Process, stdin: bytes, limits: Limits) -> Outcome:
    """Feed, read and watch a program until it has ended or must be killed."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    started = time.monotonic()
    output = _Output(limits.output_bytes)
    killed_by: KilledBy | None = None
    try:
        async with asyncio.timeout(limits.seconds), asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_watch(process.pid, limits))
            tasks.create_task(_feed(process.stdin, stdin))
            tasks.create_task(output.read(process.stdout, output.stdout))
            tasks.create_task(output.read(process.stderr, output.stderr))
            await process.wait()
            watching.cancel()
    except* _Exceeded as group:
        [first, *_] = group.exceptions
        assert isinstance(first, _Exceeded)
        killed_by = first.limit
    except* TimeoutError:
        killed_by = "time"
    return Outcome(
        status=process.returncode if killed_by is None else None,
        stdout=output.stdout.decode(errors="replace"),
        stderr=output.stderr.decode(errors="replace"),
        seconds=time.monotonic() - started,
        killed_by=killed_by,
    )


async def _start(command: Sequence[str], descriptors: Sequence[int]) -> Process:
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=descriptors,
            env={},
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:  # asyncio would kill bubblewrap, and not what it has started
        await _end(await starting)
        raise


async def _end(process: Process) -> None:
    """Kill what still runs, and wait until all of it is gone.

    Bubblewrap ends when the sandbox's first process has ended, and that one when all others have.
    So that one is killed, as soon as it is there.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    while True:
        if process.returncode is None:
            kill_inside(process.pid)
        with suppress(TimeoutError):
            async with asyncio.timeout(_WATCH_SECONDS):
                for stream in (process.stdout, process.stderr):
                    while await stream.read(_PIECE):  # asyncio sees no end behind a full pipe
                        pass
                await process.wait()
                return


async def _feed(stdin: asyncio.StreamWriter, data: bytes) -> None:
    # It ended without reading all; uvloop says so by a RuntimeError where its end is known already.
    with suppress(ConnectionError, RuntimeError):
        stdin.write(data)
        await stdin.drain()
    stdin.close()


async def _watch(pid: int, limits: Limits) -> None:
    """Hold all processes together to what the address-space limit allows each."""
    memory, disk = limits.memory_mebibytes << 20, limits.disk_mebibytes << 20
    while resident_bytes(pid) <= memory and files_inside(pid, disk) <= _MOST_FILES:
        await asyncio.sleep(_WATCH_SECONDS)
    raise _Exceeded("memory")


@contextmanager
def _readable(data: bytes) -> Iterator[int]:
    """Put data where a child process reads it by a file descriptor, and nobody by a name."""
    descriptor = os.memfd_create("sandbox")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
