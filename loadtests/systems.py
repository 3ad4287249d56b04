"""Servers in front of one upstream: ours, and our peers as their own documents say to run them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from loadtests.servers import Server, free_port, serving
from server.store.opening import MEMORY

OUT = Path(__file__).parent / "out"
BOXED = r"\\boxed\{([^}]+)\}"
"""How its_hub is told to find an answer: it has no rule of its own."""


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts servers that end with its stack; their logs are in `loadtests/out`."""

    stack: ExitStack
    name: str
    """Of the measurement: the first part of the logs' names."""

    def start(self, name: str, command: list[str], port: int, ready: str, **env: str) -> Server:
        """Run a command that listens on `port`, and wait until `ready` answers."""
        log = OUT / f"{self.name}-{name}.log"
        return self.stack.enter_context(
            serving(command, port, ready=ready, log=log, environment=env)
        )

    def module(self, module: str, *arguments: str, ready: str = "/v1/models") -> Server:
        """Run one of our modules that takes `--port`."""
        port = free_port()
        command = [sys.executable, "-m", module, *arguments, "--port", str(port)]
        return self.start(module.rpartition(".")[2], command, port, ready)

    def forethought(self, upstream: str, model: str) -> Server:
        """Run our server in front of the API at `upstream`, a URL up to and with /v1."""
        port = free_port()
        command = [
            str(Path(sys.executable).with_name("forethought")),
            *("serve", "--engine", "http", "--upstream", upstream),
            *("--model", model, "--port", str(port), "--log-level", "warning"),
        ]
        return self.start("forethought", command, port, "/readyz", FORETHOUGHT_STORE=MEMORY)

    def optillm(self, directory: Path, upstream: str, model: str, width: int) -> Server:
        """Run OptiLLM; `width` is that of its best-of-n, other widths are in the request."""
        port = free_port()
        command = [
            str(directory / "optillm" / "bin" / "optillm"),
            *("--base-url", upstream, "--model", model, "--port", str(port)),
            *("--best-of-n", str(width)),
        ]
        return self.start("optillm", command, port, "/health", OPENAI_API_KEY="none")

    def its(self, directory: Path, upstream: str, model: str) -> Server:
        """Run its_hub's server, configured for self-consistency."""
        port = free_port()
        program = str(directory / "its" / "bin" / "its-iaas")
        server = self.start(
            "its", [program, "--host", "127.0.0.1", "--port", str(port)], port, "/docs"
        )
        configuration = {
            "endpoint": upstream,
            "api_key": "none",
            "model": model,
            "alg": "self-consistency",
            "regex_patterns": [BOXED],
        }
        httpx.post(f"{server.url}/configure", json=configuration, timeout=60).raise_for_status()
        return server


@contextmanager
def starter(name: str) -> Iterator[Starter]:
    """Open a starter; what it started ends with the block."""
    with ExitStack() as stack:
        yield Starter(stack, name)
