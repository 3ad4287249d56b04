"""A real redis-server on a free port, which tests may kill and start again."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RedisServer:
    """A server that loses nothing when it is killed: writes are on the disk before its reply."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    @property
    def url(self) -> str:
        """Return its address, which stays the same."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Return the number of its process, for signals."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self, seconds: float = 20.0) -> None:
        """Start it, and wait until it answers from what it kept."""
        self._process = subprocess.Popen(
            [
                *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self._directory), "--save", ""),
                *("--appendonly", "yes", "--appendfsync", "always"),
            ],
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + seconds
        while not self.answers():
            assert self._process.poll() is None, "redis-server ended"
            assert time.monotonic() < end, "redis-server does not answer"
            time.sleep(0.02)

    def answers(self) -> bool:
        """Say whether it has loaded what it kept."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16) == b"+PONG\r\n"
        except OSError:
            return False

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def empty(self) -> None:
        """Forget everything, before a test that wants to be alone."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(16) == b"+OK\r\n"


@contextmanager
def running_redis(directory: Path) -> Iterator[RedisServer]:
    """Run a server that keeps its data in a directory, until the block ends."""
    server = RedisServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()
