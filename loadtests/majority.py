"""The same recorded samples, voted on by three systems: ours, OptiLLM and its_hub.

    python -m loadtests.majority --peers DIRECTORY [--problems N]

Each system is started afresh in front of a meter in front of the replay upstream, and asked every
question of a pool once, with as many samples as were recorded. So all see the same samples, in
the same order; what differs is how they read and compare answers, and what they spend on it. The
answer of a system is read from the text that it returns, and judged as every sample is.
Beside them: the majority computed from the pool itself, which ours has to equal on every problem.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
from rich.progress import Progress

from loadtests.inference import paired_bootstrap
from loadtests.pools import POOLS, Pool, Recorded, open_pool
from loadtests.report import circumstances, table, write_section
from loadtests.servers import Server
from loadtests.systems import Starter, starter
from loadtests.tasks.discovery import task_named
from verifiers.equality import AnswerEquality
from verifiers.types import Candidate, Prompt
from verifiers.votes import gather_votes

PATIENCE = httpx.Timeout(600.0)


@dataclass(frozen=True, slots=True)
class System:
    """Who votes, and how it is asked for a vote of `width` samples."""

    name: str
    server: Server
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a system made of a pool."""

    name: str
    texts: tuple[str, ...]
    """Its answer to each problem, in the pool's order."""
    answers: tuple[str | None, ...]
    """What ours says that the majority answered; of others, nothing."""
    correct: tuple[bool, ...]
    meter: Mapping[str, Any]


async def ask_all(
    system: System, pool: Pool, problems: Sequence[Recorded], meter: str, tick: Any
) -> Verdict:
    """Ask a system every question, one after another, and judge what it says."""
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        await _ok(client.post(f"{meter}/meter/reset"))
        texts, answers = [], []
        for recorded in problems:
            body = {
                **system.body,
                "messages": [dict(message) for message in recorded.problem.messages],
                **pool.manifest.sampling,
            }
            response = await _ok(client.post(f"{system.server.url}/v1/chat/completions", json=body))
            said = response.json()
            texts.append(str(said["choices"][0]["message"]["content"] or ""))
            answers.append(said.get("scaling", {}).get("answer"))
            tick()
        counted = (await _ok(client.get(f"{meter}/meter"))).json()
    correct = await judge(pool, problems, texts)
    return Verdict(system.name, tuple(texts), tuple(answers), correct, counted)


async def _ok(waiting: Any) -> httpx.Response:
    response: httpx.Response = await waiting
    if response.is_error:
        raise RuntimeError(f"{response.request.url} says {response.status_code}: {response.text}")
    return response


async def judge(pool: Pool, problems: Sequence[Recorded], texts: Sequence[str]) -> tuple[bool, ...]:
    """Judge a text for each problem as the pool's samples were judged."""
    task = task_named(pool.manifest.task, seed=pool.manifest.seed)
    equality = AnswerEquality()
    correct = []
    try:
        for recorded, text in zip(problems, texts, strict=True):
            reply = Candidate("0", text, finish_reason="stop")
            (verdict,) = await task.grade(recorded.problem, [reply], equality)
            correct.append(bool(verdict.correct))
    finally:
        await equality.aclose()
    return tuple(correct)


async def offline(problems: Sequence[Recorded]) -> tuple[str | None, ...]:
    """Return the majority's answer to each problem, from the pool itself."""
    equality = AnswerEquality()
    try:
        return tuple(
            [
                (
                    await gather_votes(
                        [sample.candidate() for sample in recorded.samples],
                        Prompt(recorded.problem.messages),
                        equality,
                    )
                ).answer
                for recorded in problems
            ]
        )
    finally:
        await equality.aclose()


async def compare(
    servers: Starter,
    pool: Pool,
    peers: Path | None,
    problems: Sequence[Recorded],
    progress: Progress,
) -> list[Verdict]:
    """Ask every system every question; before each system the samples begin again."""
    model, width = pool.manifest.model, pool.manifest.samples
    replay = servers.module("loadtests.replay", str(pool.path))
    meter = servers.module("loadtests.meter", "--upstream", replay.url, ready="/meter")
    upstream = f"{meter.url}/v1"
    ours = servers.forethought(upstream, model)
    vote = {"model": model, "strategy": {"type": "self_consistency", "n": width}}
    vote["budget"] = {"max_tokens": 65_536, "max_calls": 256}
    systems = [System(OURS, ours, vote)]
    if peers is not None:
        optillm = servers.optillm(peers, upstream, model, width)
        its = servers.its(peers, upstream, model)
        systems += [
            System(
                f"OptiLLM majority_voting, k = {width}",
                optillm,
                {"model": f"majority_voting-{model}", "k": width},
            ),
            System(
                f"its_hub self-consistency, budget {width}", its, {"model": model, "budget": width}
            ),
        ]
    bar = progress.add_task(pool.name, total=len(systems) * len(problems))
    verdicts = []
    for system in systems:
        httpx.post(f"{replay.url}/reset").raise_for_status()
        tick = partial(progress.advance, bar)
        verdicts.append(await ask_all(system, pool, problems, meter.url, tick))
    return verdicts


OURS = "forethought self_consistency"


async def report(pool: Pool, verdicts: Sequence[Verdict], problems: Sequence[Recorded]) -> str:
    """Write down how they compare, in pairs by problem."""
    majorities = await offline(problems)
    ours = verdicts[0]
    equal = sum(one == other for one, other in zip(ours.answers, majorities, strict=True))
    head = ["who", "right %", "ours minus it, points", "calls", "samples", "tokens"]
    body = [
        [
            verdict.name,
            f"{100 * fmean(verdict.correct):.1f}",
            "–" if verdict is ours else _minus(ours, verdict),
            *(f"{verdict.meter[name]:,}" for name in ("calls", "samples", "completion_tokens")),
        ]
        for verdict in verdicts
    ]
    return f"""\
{pool.title}, {pool.manifest.samples} samples each:

{table(head, body)}

Ours gives the majority of the recorded samples on {equal} of {len(problems)} problems."""


def _minus(ours: Verdict, other: Verdict) -> str:
    pairs = zip(ours.correct, other.correct, strict=True)
    gain = paired_bootstrap([100.0 * (one - two) for one, two in pairs])
    return f"{gain.mean:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"


async def run(peers: Path | None, count: int | None) -> list[str]:
    """Compare on every kept pool."""
    sections = []
    with Progress() as progress:
        for path in sorted(each.parent for each in POOLS.glob("*/manifest.json")):
            pool = open_pool(path)
            problems = pool.recorded[:count]
            with starter("majority") as servers:
                verdicts = await compare(servers, pool, peers, problems, progress)
            sections.append(await report(pool, verdicts, problems))
    return sections


def main() -> None:
    """Compare, and write the section of `docs/results.md`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", type=Path, help="directory with their virtual environments")
    parser.add_argument("--problems", type=int, help="the first of each pool; nothing is written")
    options = parser.parse_args()
    peers = options.peers.resolve() if options.peers else None
    sections = asyncio.run(run(peers, options.problems))
    text = "\n\n".join(sections)
    if options.problems is None:
        made = circumstances("python -m loadtests.majority")
        write_section("majority", f"{text}\n\n{made}")
    else:
        print(text)


if __name__ == "__main__":
    main()
