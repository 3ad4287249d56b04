"""Hours of mixed load on a bad upstream: does anything leak, and is every token counted?

    python -m loadtests.soak --minutes 20 [--clients 24] [--seed 1]

The upstream (`tests.unreliable_upstream`) is late, refuses, breaks off and sends garbage; clients
stream, wait, ask nonsense and hang up. Then all is held against each other: memory by its slope,
tasks, connections and samples against what there was before, each answer's tokens against the
upstream's own count for it, every error's form, and the answer to a fixed seed before and after.
What a burst of the same load leaves behind is the state before. Readings, figures and a plot are in
`loadtests/out/soak.json` and `soak.png`; the exit code is 1 where something was found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.progress import Progress

from loadtests.inference import Interval
from loadtests.servers import Server
from loadtests.soak_clients import CHAT, Clients, Notes
from loadtests.soak_plot import plot
from loadtests.soak_watch import Reading, Watch, growth
from loadtests.systems import OUT, starter

MODEL = "stub"
FIXED: Mapping[str, Any] = {
    "messages": [{"role": "user", "content": "What is 6 times 7?"}],
    "strategy": {"type": "self_consistency", "n": 8},
    "seed": 7,
}
LEAST_MINUTES = 5.0
"""Below, the slope of memory says nothing."""
MOST_GROWTH = 20.0
"""MiB per hour that the lower end of the slope's interval may have."""
_WARM_UP_S = 30.0
_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a soak."""

    minutes: float
    seed: int
    requests: int
    endings: Mapping[str, int]
    faults: Mapping[str, int]
    """The upstream's."""
    before: Reading
    after: Reading
    slope: Interval
    """Of memory, in MiB per hour."""
    exact: int
    """Answers whose tokens were held against the upstream's count."""
    wrong: Sequence[str]
    """Everything that should not be."""


async def soak(
    server: Server, upstream: Server, *, seconds: float, clients: int, seed: int, warm_up: float
) -> tuple[Found, list[Reading], Notes]:
    """Load the server for so long, and compare."""
    watch = Watch(server.url, server.pid, time.monotonic())
    async with httpx.AsyncClient(timeout=30) as http:
        await Clients(server.url, seed + 1_000_000, Notes()).run(clients, warm_up)
        before = await watch.settle(http)
        answer = await _fixed(http, server)
        notes = Notes()
        load = Clients(server.url, seed, notes)
        tally_before = await _tally(http, upstream)
        readings = await _read_while(watch, http, load, clients, seconds)
        after = await watch.settle(http)
        tally = await _tally(http, upstream)
        wrong = [*notes.foreign, *_leaks(before, after, tally)]
        claims, differ = _ledger(notes, tally_before, tally)
        wrong += differ
        if await _fixed(http, server) != answer:
            wrong.append("the answer to a fixed seed has changed")
    slope = growth(readings[len(readings) // 4 :])
    if seconds >= 60 * LEAST_MINUTES and slope.low > MOST_GROWTH:
        wrong.append(f"memory grows by {slope.mean:.1f} MiB per hour")
    endings = {f"{kind} {ending}": count for (kind, ending), count in notes.endings.items()}
    found = Found(
        seconds / 60,
        seed,
        load.asked,
        endings,
        tally["faults"],
        before,
        after,
        slope,
        claims,
        wrong,
    )
    return found, readings, notes


async def _read_while(
    watch: Watch, http: httpx.AsyncClient, load: Clients, clients: int, seconds: float
) -> list[Reading]:
    """Take a reading every second until all clients are done."""
    readings: list[Reading] = []
    loading = asyncio.create_task(load.run(clients, seconds))
    with Progress() as progress:
        bar = progress.add_task("soak", total=seconds)
        began = time.monotonic()
        while not loading.done():
            readings.append(await watch.read(http))
            progress.update(bar, completed=time.monotonic() - began)
            await asyncio.wait((loading,), timeout=_EVERY_S)
    await loading
    return readings


def _leaks(before: Reading, after: Reading, tally: Mapping[str, Any]) -> list[str]:
    """Say what is left over. Connections that rest are used again: there may be fewer, or some."""
    wrong = []
    if after.running or after.queued:
        wrong.append(f"{after.running} samples run and {after.queued} wait for nobody")
    if after.tasks > before.tasks:
        wrong.append(f"{after.tasks} tasks, there were {before.tasks}")
    if after.sockets > before.sockets + 8:
        wrong.append(f"{after.sockets} connections, there were {before.sockets}")
    if tally["running"]:
        wrong.append(f"the upstream still works on {tally['running']} requests")
    return wrong


def _ledger(
    notes: Notes, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[int, list[str]]:
    """Hold the tokens that answers claim against what the upstream made for them.

    What it made of answers that broke off may have been seen in part. Where that cannot be known,
    the server says so (`exact` is false) and counts what might have been made, so that no budget is
    overrun: never less than what certainly was.
    """
    wrong, exact = [], 0
    for mark, (claimed, is_exact) in notes.claims.items():
        whole, broken = after["tokens"].get(mark, (0, 0))
        past_whole, past_broken = before["tokens"].get(mark, (0, 0))
        whole, broken = whole - past_whole, broken - past_broken
        exact += is_exact
        if claimed < whole or (is_exact and claimed > whole + broken):
            made = f"{whole} in whole answers, {broken} in others"
            wrong.append(f"{mark} claims {claimed} tokens, the upstream made {made}")
    return exact, wrong


async def _fixed(http: httpx.AsyncClient, server: Server) -> Any:
    """Ask what always has the same answer, and return what of it does not change."""
    body = (await http.post(f"{server.url}{CHAT}", json=FIXED)).raise_for_status().json()
    told = body["scaling"]
    return body["choices"], body["usage"], told["answer"], told["agreement"], told["scores"]


async def _tally(http: httpx.AsyncClient, upstream: Server) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get(f"{upstream.url}/tally")).raise_for_status().json()
    return found


def run(
    minutes: float, clients: int, seed: int, out: Path = OUT, warm_up: float = _WARM_UP_S
) -> Found:
    """Start both servers, soak, and keep what was found."""
    with starter("soak") as servers:
        upstream = servers.module("tests.unreliable_upstream", "--seed", str(seed))
        ours = servers.forethought(f"{upstream.url}/v1", MODEL)
        found, readings, notes = asyncio.run(
            soak(ours, upstream, seconds=60 * minutes, clients=clients, seed=seed, warm_up=warm_up)
        )
    out.mkdir(parents=True, exist_ok=True)
    kept = {**asdict(found), "readings": [each._asdict() for each in readings]}
    (out / "soak.json").write_text(json.dumps(kept, indent=1))
    plot(readings, notes, found.slope, out / "soak.png")
    return found


def main() -> int:
    """Soak, say what was found, and return 1 if that is anything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    found = run(options.minutes, options.clients, options.seed)
    print(f"{found.requests} requests in {found.minutes:.1f} minutes, seed {found.seed}")
    for ending, count in sorted(found.endings.items()):
        print(f"  {ending}: {count}")
    slope = found.slope
    print(f"memory: {slope.mean:+.2f} MiB per hour ({slope.low:+.2f} to {slope.high:+.2f})")
    print(f"before: {found.before}\nafter:  {found.after}")
    print(f"{found.exact} answers counted exactly; upstream's faults: {found.faults}")
    for each in found.wrong:
        print(f"WRONG: {each}")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
