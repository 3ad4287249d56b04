"""What the server itself costs: an instant upstream, n=8, 32 clients, us and our peers in one run.

    python -m loadtests.overhead --peers DIRECTORY

DIRECTORY holds a virtual environment for each peer, `optillm` and `its`, made as
`loadtests/peers/README.md` says; without it only ours and the limit are measured. The limit is the
upstream itself, asked with n=8. Every request has another prompt, so that no cache can answer.
Targets take turns for several rounds; a figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtests.report import circumstances, table, write_section
from loadtests.servers import Server
from loadtests.systems import OUT, starter

CLIENTS = 32
WIDTH = 8
MODEL = "stub"


@dataclass(frozen=True)
class Target:
    """Who is asked, and how."""

    name: str
    server: Server
    body: Mapping[str, Any]
    rows: list[tuple[float, float]] = field(default_factory=list)
    """Of each round: requests per second, and CPU milliseconds per request."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return statistics.median(rate for rate, _ in self.rows)

    @property
    def cpu(self) -> float:
        """CPU milliseconds per request, of the server alone."""
        return statistics.median(cpu for _, cpu in self.rows)


async def load(target: Target, seconds: float) -> tuple[float, float]:
    """Keep 32 clients busy for some seconds; return requests per second and CPU ms per request."""
    until = time.perf_counter() + seconds
    answered = 0

    async def client(number: int, http: httpx.AsyncClient) -> None:
        nonlocal answered
        count = 0
        while time.perf_counter() < until:
            question = f"Question {time.monotonic_ns()} of {number}.{count}: what is 6 times 7?"
            messages = [{"role": "user", "content": question}]
            body = {**target.body, "messages": messages}
            response = await http.post(f"{target.server.url}/v1/chat/completions", json=body)
            response.raise_for_status()
            if not response.json()["choices"][0]["message"]["content"]:
                raise RuntimeError(f"{target.name} answered with nothing")
            answered += 1
            count += 1

    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    before = target.server.cpu_seconds()
    started = time.perf_counter()
    async with httpx.AsyncClient(timeout=120, limits=limits) as http, asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(number, http))
    elapsed = time.perf_counter() - started
    cpu = target.server.cpu_seconds() - before
    return answered / elapsed, 1000 * cpu / answered


@contextmanager
def targets(peers: Path | None) -> Iterator[list[Target]]:
    """Start the upstream and everything in front of it."""
    with starter("overhead") as servers:
        stub = servers.module("tests.stub_upstream")
        upstream = f"{stub.url}/v1"
        ours = servers.forethought(upstream, MODEL)
        body = {"model": MODEL}
        made = [
            Target("the upstream, n=8 (the limit)", stub, {**body, "n": WIDTH}),
            *(
                Target(
                    f"forethought {name}", ours, {**body, "strategy": {"type": name, "n": WIDTH}}
                )
                for name in ("self_consistency", "best_of_n")
            ),
        ]
        if peers is not None:
            optillm = servers.optillm(peers.resolve(), upstream, MODEL, WIDTH)
            its = servers.its(peers.resolve(), upstream, MODEL)
            voting = {"model": f"majority_voting-{MODEL}", "k": WIDTH}
            made += [
                Target("its-iaas self-consistency", its, {**body, "budget": WIDTH}),
                Target("optillm majority_voting", optillm, voting),
                Target("optillm bon", optillm, {"model": f"bon-{MODEL}"}),
            ]
        yield made


def main() -> None:
    """Measure, print, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with targets(options.peers) as all_targets, Progress() as progress:
        bar = progress.add_task("overhead", total=(options.rounds + 1) * len(all_targets))
        for round_number in range(options.rounds + 1):
            for target in all_targets:
                row = asyncio.run(load(target, options.seconds if round_number else 1.0))
                if round_number:  # the first is the warm-up
                    target.rows.append(row)
                progress.advance(bar)
    limit = all_targets[0].rate
    head = ["who", "requests/s", "of the limit", "server CPU ms/request"]
    body = [
        [each.name, f"{each.rate:.0f}", f"{each.rate / limit:.2f}", f"{each.cpu:.2f}"]
        for each in all_targets
    ]
    shown = Table(*head)
    for line in body:
        shown.add_row(*line)
    Console().print(shown)
    write_section(
        "overhead", f"{table(head, body)}\n\n{circumstances('python -m loadtests.overhead')}"
    )
    rows = [{"name": each.name, "rate": each.rate, "cpu_ms": each.cpu} for each in all_targets]
    (OUT / "overhead.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
