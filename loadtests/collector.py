"""What the garbage collector costs a request, with Python's settings and with the server's.

    python -m loadtests.collector

One process serves `best_of_n`, n=8, from an instant upstream (a process of its own) and asks itself
over a socket: the client's share is in the figures. Batches of requests alternate between the two
settings; the ratio is the median over pairs of neighbouring batches.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import uvicorn
from rich.progress import track

from loadtests.report import circumstances, table, write_section
from loadtests.servers import free_port, serving
from server.app import create_app
from server.commands.serve import settle_heap
from server.engines.http import HTTPEngine
from strategies.admission import Admission
from tests.server.local import make_state

OUT = Path(__file__).parent / "out"
PAIRS, CLIENTS, REQUESTS = 12, 32, 8


class CollectorClock:
    """Adds up the seconds that the collector runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._started = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._started


def pythons_own() -> None:
    """Collect as Python does by default."""
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)


async def batch(url: str) -> None:
    """Answer 256 requests, every one with another prompt, 32 at a time."""

    async def client(http: httpx.AsyncClient) -> None:
        for _ in range(REQUESTS):
            question = [{"role": "user", "content": f"{time.monotonic_ns()}: what is 6 times 7?"}]
            body = {"strategy": {"type": "best_of_n", "n": 8}, "messages": question}
            (await http.post(f"{url}/v1/chat/completions", json=body)).raise_for_status()

    async with httpx.AsyncClient(timeout=60) as http, asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client(http))


async def measure(upstream: str) -> tuple[list[list[float]], list[list[float]]]:
    """Return CPU and collector milliseconds per request of every batch, by setting."""
    engine = await HTTPEngine.start(upstream, "stub")
    app = create_app(make_state(engine, admission=Admission(256, 256)))
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_level="warning", lifespan="off", access_log=False)
    )
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    clock = CollectorClock()
    settings: list[Callable[[], None]] = [pythons_own, settle_heap]
    cpu: list[list[float]] = [[], []]
    collecting: list[list[float]] = [[], []]
    await batch(f"http://127.0.0.1:{port}")
    for pair in track(range(PAIRS), "collector"):
        for which in (0, 1) if pair % 2 else (1, 0):
            settings[which]()
            clock.seconds, before = 0.0, time.process_time()
            await batch(f"http://127.0.0.1:{port}")
            each = 1000 / (CLIENTS * REQUESTS)
            cpu[which].append((time.process_time() - before) * each)
            collecting[which].append(clock.seconds * each)
    server.should_exit = True
    await running
    await engine.aclose()
    return cpu, collecting


def main() -> None:
    """Measure, and write the section of `docs/results.md`."""
    port = free_port()
    command = [sys.executable, "-m", "tests.stub_upstream", "--port", str(port)]
    log = OUT / "collector-stub.log"
    with serving(command, port, ready="/v1/models", log=log) as stub:
        cpu, collecting = asyncio.run(measure(f"{stub.url}/v1"))
    ratio = statistics.median(ours / default for default, ours in zip(*cpu, strict=True))
    rows = [
        [name, f"{statistics.median(cpu[i]):.2f}", f"{statistics.median(collecting[i]):.2f}"]
        for i, name in enumerate(("Python's default", "the server's"))
    ]
    head = ["collector", "CPU ms/request, client included", "of it collecting"]
    text = f"{table(head, rows)}\n\nRatio {ratio:.2f}, the median of {PAIRS} pairs of batches."
    write_section("collector", f"{text}\n{circumstances('python -m loadtests.collector')}")


if __name__ == "__main__":
    main()
