"""Processes that are killed with SIGKILL, and started again where they were."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import httpx

from loadtests.servers import free_port

_PATIENCE_S = 60.0
_LOOK_S = 0.05


class Killable:
    """A process with its children, which is up once it answers."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        answers: Callable[[], Awaitable[bool]],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._command, self._answers, self._log = command, answers, log
        self._environment = {**os.environ, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it answers. Raises RuntimeError where it does not."""
        with self._log.open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not await self._answers():
                    if self._process.returncode is not None:
                        raise RuntimeError(f"{self.name} ended; see {self._log}")
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise RuntimeError(f"{self.name} does not answer; see {self._log}") from None

    async def kill(self) -> None:
        """End it, and whatever it started, with SIGKILL, if it runs."""
        if self._process is not None and self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()


def redis(directory: Path) -> tuple[Killable, str]:
    """Make a Redis that loses nothing it has acknowledged, and its address."""
    port = free_port()
    command = [
        *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
        *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
    ]

    async def answers() -> bool:
        return await asyncio.to_thread(_pong, port)

    log = directory / "redis.log"
    return Killable("Redis", command, answers, log), f"redis://127.0.0.1:{port}"


def forethought(name: str, directory: Path, settings: Mapping[str, str]) -> tuple[Killable, str]:
    """Make a Forethought with these settings, and its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("forethought")), "serve", "--port", str(port)]
    environment = {f"FORETHOUGHT_{key.upper()}": value for key, value in settings.items()}

    async def answers() -> bool:
        async with httpx.AsyncClient(timeout=2) as client:
            try:
                return (await client.get(f"{url}/healthz")).is_success
            except httpx.TransportError:
                return False

    return Killable(name, command, answers, directory / f"{name}.log", environment), url


def _pong(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16) == b"+PONG\r\n"
    except OSError:
        return False
