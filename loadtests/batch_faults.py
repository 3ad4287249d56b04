"""A batch while everything that works on it is killed: is every line answered exactly once?

    python -m loadtests.batch_faults [--lines 2000] [--kills 5] [--seed 0]

A server, a worker on batches and Redis (append-only file, fsync always) are each killed with
SIGKILL, `--kills` times, at moments drawn by the seed over the course of the work, and started
again a moment later. The upstream counts how often each line was worked; the output file tells how
often each was answered. The exit code is 0 where each has exactly one answer, its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtests.batch_api import Api, input_file, question, samples
from loadtests.counting_upstream import MODEL, CountingUpstream, serving_upstream
from loadtests.killable import Killable, forethought, redis
from loadtests.report import circumstances, table, write_section

OUT = Path(__file__).parent / "out"
_LEASE_S = 2
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to whom."""

    lines: int = 2_000
    kills: int = 5
    """Of each part."""
    seed: int = 0
    longest_s: float = 0.25
    """That the upstream takes for an answer."""

    def moments(self, parts: Sequence[str]) -> list[tuple[int, str, float]]:
        """Draw at how many worked lines which part is killed, and for how many seconds."""
        draw = random.Random(self.seed)
        victims = [part for part in parts for _ in range(self.kills)]
        draw.shuffle(victims)
        marks = sorted(draw.uniform(0.03, 0.95) * self.lines for _ in victims)
        return [
            (int(mark), victim, draw.uniform(0.1, 1.0))
            for mark, victim in zip(marks, victims, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Kill:
    """A part that was killed: when, at how many worked lines, and when it answered again."""

    part: str
    at_s: float
    worked: int
    back_s: float


@dataclass(slots=True)
class Verdict:
    """What became of the batch."""

    lines: int
    seconds: float
    kills: list[Kill] = field(default_factory=list)
    status: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    answered_once: int = 0
    answered_wrong: list[str] = field(default_factory=list)
    """Lines with no answer, with two, or with another's."""
    errors: int = 0
    """Lines in the error file."""
    worked_again: int = 0
    """Lines that the upstream was asked for more often than once."""
    samples_again: int = 0

    @property
    def passed(self) -> bool:
        """Whether every line has exactly one answer, its own."""
        whole = self.answered_once == self.lines == self.counts.get("completed")
        return self.status == "completed" and whole and not self.errors and not self.answered_wrong


async def run(plan: Plan, directory: Path, bar: Progress) -> Verdict:
    """Work a batch under faults, and judge what came of it."""
    upstream = CountingUpstream(plan.seed, plan.longest_s)
    async with serving_upstream(upstream) as url, _parts(url, directory) as (parts, server_url):
        started = time.monotonic()
        async with httpx.AsyncClient(base_url=server_url, timeout=30) as client:
            api = Api(client)
            batch_id = await api.begin(input_file(plan.lines))
            verdict = Verdict(plan.lines, 0.0)
            watching = asyncio.create_task(_watch(plan, upstream, bar))
            try:
                verdict.kills = await _kill(plan, parts, upstream, started)
                batch = await api.ended(batch_id)
            finally:
                watching.cancel()
            verdict.seconds = time.monotonic() - started
            await _judge(verdict, batch, api)
            _count_again(verdict, upstream)
    return verdict


@asynccontextmanager
async def _parts(upstream: str, directory: Path) -> AsyncIterator[tuple[dict[str, Killable], str]]:
    """Start Redis, a server and a worker; kill all in the end."""
    store, store_url = redis(directory)
    settings = {
        "engine": "http",
        "upstream": upstream,
        "model": MODEL,
        "store": store_url,
        "batches__lease_s": str(_LEASE_S),
        "batches__poll_s": "0.2",
        "batches__backoff_s": "0.5",
        "admission__slots": "32",
    }
    server, url = forethought("server", directory, settings)
    worker, _ = forethought("worker", directory, settings | {"role": "worker"})
    parts = {each.name: each for each in (store, server, worker)}
    try:
        for part in parts.values():
            await part.start()
        yield parts, url
    finally:
        for part in parts.values():
            await part.kill()


async def _kill(
    plan: Plan, parts: dict[str, Killable], upstream: CountingUpstream, started: float
) -> list[Kill]:
    """Kill as planned; several parts may be down at once."""
    kills: list[Kill] = []
    locks = {name: asyncio.Lock() for name in parts}

    async def one(victim: str, down_s: float) -> None:
        at_s, worked = time.monotonic() - started, upstream.worked
        await parts[victim].kill()
        await asyncio.sleep(down_s)
        await parts[victim].start()
        kills.append(Kill(victim, at_s, worked, time.monotonic() - started))
        locks[victim].release()

    async with asyncio.TaskGroup() as group:
        for mark, victim, down_s in plan.moments(tuple(parts)):
            while upstream.worked < mark:
                await asyncio.sleep(_LOOK_S / 5)
            await locks[victim].acquire()  # it must be up to be killed
            group.create_task(one(victim, down_s))
    return sorted(kills, key=lambda each: each.at_s)


async def _watch(plan: Plan, upstream: CountingUpstream, bar: Progress) -> None:
    """Show how many lines were worked."""
    task = bar.add_task("lines", total=plan.lines)
    while True:
        bar.update(task, completed=upstream.worked)
        await asyncio.sleep(_LOOK_S)


async def _judge(verdict: Verdict, batch: dict[str, Any], api: Api) -> None:
    """Read both files: every line should have one answer, which says what the line asked."""
    verdict.status, verdict.counts = batch["status"], batch["request_counts"]
    verdict.errors = len(await api.rows(batch["error_file_id"]))
    answers = await api.rows(batch["output_file_id"])
    found = Counter(row["custom_id"] for row in answers)
    said = {
        row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"]
        for row in answers
    }
    for number in range(verdict.lines):
        name = f"line-{number}"
        if found.pop(name, 0) == 1 and said[name] == f"You said: {question(number)}":
            verdict.answered_once += 1
        else:
            verdict.answered_wrong.append(name)
    verdict.answered_wrong += found


def _count_again(verdict: Verdict, upstream: CountingUpstream) -> None:
    again = [upstream.asked[question(number)] - samples(number) for number in range(verdict.lines)]
    verdict.worked_again = sum(count > 0 for count in again)
    verdict.samples_again = sum(max(0, count) for count in again)


def report(plan: Plan, verdict: Verdict) -> str:
    """Tell what was killed when, and what came of it."""
    rows = [
        [each.part, f"{each.at_s:.1f}", str(each.worked), f"{each.back_s - each.at_s:.1f}"]
        for each in verdict.kills
    ]
    wrong = ", ".join(verdict.answered_wrong[:10]) or "none"
    return "\n\n".join(
        (
            f"{plan.lines} lines, {len(verdict.kills)} kills with SIGKILL, seed {plan.seed}: "
            f"{verdict.status} after {verdict.seconds:.0f} s. "
            f"Lines answered exactly once, with their own answer: {verdict.answered_once}; "
            f"otherwise: {wrong}; in the error file: {verdict.errors}. "
            f"Lines worked more than once: {verdict.worked_again} "
            f"({verdict.samples_again} samples for nothing).",
            table(["killed", "at s", "lines worked", "back after s"], rows),
        )
    )


def main() -> None:
    """Run, report, and say by the exit code whether it passed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lines", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=5, help="of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="write the report to docs/results.md")
    options = parser.parse_args()
    plan = Plan(options.lines, options.kills, options.seed)
    columns = (TextColumn("worked"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as directory, Progress(*columns) as bar:
        verdict = asyncio.run(run(plan, Path(directory), bar))
    told = report(plan, verdict)
    print(told)
    OUT.mkdir(exist_ok=True)
    (OUT / "batch_faults.json").write_text(json.dumps(asdict(verdict), indent=1))
    if options.keep:
        command = (
            f"python -m loadtests.batch_faults --lines {plan.lines} --kills {plan.kills} "
            f"--seed {plan.seed}"
        )
        write_section("batch-faults", f"{told}\n\n{circumstances(command)}")
    sys.exit(0 if verdict.passed else 1)


if __name__ == "__main__":
    main()
