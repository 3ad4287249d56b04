"""Strategies on a real model: accuracy, tokens and seconds, question by question.

    FORETHOUGHT_TRACES=traces.db forethought serve --port 8000 &
    python -m loadtests.live search --url http://127.0.0.1:8000 [--problems 20]
    python -m loadtests.live --report

A set of strategies (loadtests/live_sets.py) is asked problems of a task, where seconds count one
request at a time; the strategies take turns on each problem, so that a machine that changes its
speed changes it for all. Beside each answer stands what the engine itself counted, and what the
trace says of a strategy's choice. Answers go to an append-only file, a line each: an interrupted
run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loadtests.inference import Interval, paired_bootstrap
from loadtests.live_choices import choose_again, chosen_of
from loadtests.live_sets import SETS, LiveSet
from loadtests.report import circumstances, table, write_section
from loadtests.rows import rows_of
from loadtests.tasks.base import Problem
from loadtests.tasks.discovery import task_named
from strategies.budget import Budget
from strategies.compute_optimal import ComputeOptimal
from verifiers.equality import AnswerEquality
from verifiers.types import Candidate

DATA = Path(__file__).parent / "data"
GENERATED = 'forethought_engine_generated_tokens_total{engine="main"}'
SETTLED_S = 0.3
"""After an answer, until the engine has told of its last step."""
SAMPLING = {"temperature": 0.8, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}


class Recorder:
    """Asks the questions of one set, and appends the answers to a file."""

    def __init__(self, chosen: LiveSet, client: httpx.AsyncClient, out: Path) -> None:
        self._set = chosen
        self._task = task_named(chosen.task)
        self._client = client
        self._out = out
        self._equality = AnswerEquality()

    async def record(self, count: int, bar: Progress) -> None:
        """Ask what the file does not hold yet."""
        known = {(row["problem"], row["strategy"]) for row in rows_of(self._out)}
        problems = self._task.problems()[:: self._set.every][:count]
        asked = [
            (problem, name)
            for place, problem in enumerate(problems)
            for name, each in self._set.strategies.items()
            if each.problems is None or place < each.problems
        ]
        todo = [(problem, name) for problem, name in asked if (problem.id, name) not in known]
        line = bar.add_task("", total=len(asked), completed=len(asked) - len(todo))
        limit = asyncio.Semaphore(self._set.together)

        async def one(problem: Problem, name: str) -> None:
            async with limit:
                row = await self.ask(problem, name)
            with self._out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            bar.advance(line)

        async with aclosing(self._equality), asyncio.TaskGroup() as group:
            for problem, name in todo:
                group.create_task(one(problem, name))

    async def ask(self, problem: Problem, name: str) -> dict[str, Any]:
        """Ask one question with one strategy; return what is worth keeping."""
        asked = self._set.strategies[name]
        body = {
            "messages": list(problem.messages),
            "strategy": asked.strategy,
            "budget": self._set.budget,
            "max_completion_tokens": self._set.cap,
            **SAMPLING,
        }
        if asked.verifier is not None:
            body["verifier"] = asked.verifier(problem)
        alone = self._set.together == 1
        before = await engine_tokens(self._client) if alone else 0
        response = await self._client.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        said = response.json()
        scaling, text = said["scaling"], said["choices"][0]["message"]["content"]
        reply = Candidate("0", text, finish_reason=said["choices"][0]["finish_reason"])
        (verdict,) = await self._task.grade(problem, [reply], self._equality)
        row = {
            "problem": problem.id,
            "strategy": name,
            "correct": bool(verdict.correct),
            "text": text,
            "answer": scaling["answer"],
            "stopped_by": scaling["stopped_by"],
            "usage": scaling["usage"],
        }
        if alone:
            made = await engine_tokens(self._client) - before
            row |= {"seconds": scaling["seconds"], "engine_tokens": made}
        if asked.strategy["type"] == "auto":
            row["events"] = await choice_events(self._client, said["id"])
        return row


async def engine_tokens(client: httpx.AsyncClient) -> int:
    """Read what the engine itself has counted as generated; it is asked when nothing runs."""
    await asyncio.sleep(SETTLED_S)
    metrics = (await client.get("/metrics")).text
    line = next(each for each in metrics.splitlines() if each.startswith(GENERATED))
    return int(float(line.split()[-1]))


async def choice_events(client: httpx.AsyncClient, trace: str) -> list[dict[str, Any]]:
    """Return what a trace says of samples and choices."""
    kept = (await client.get(f"/v1/traces/{trace}")).json()
    return [each for each in kept["events"] if each["kind"] in ("sampled", "chosen")]


def figures_of(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write down a set's table: each strategy beside the first, on the problems of both."""
    by_strategy = {
        strategy: {row["problem"]: row for row in rows if row["strategy"] == strategy}
        for strategy in SETS[name].strategies
    }
    first = next(iter(by_strategy.values()))
    alone = SETS[name].together == 1
    head = ["strategy", "right", "minus the first, points", "tokens", "calls"]
    head += ["seconds", "the engine's count"] if alone else []
    body = []
    for strategy, answered in by_strategy.items():
        shared = sorted(set(first) & set(answered))
        kept = [answered[problem] for problem in shared]
        gain = paired_bootstrap(
            [100.0 * (answered[p]["correct"] - first[p]["correct"]) for p in shared]
        )
        line = [
            strategy,
            f"{sum(row['correct'] for row in kept)} of {len(kept)}",
            "–" if answered is first else _interval(gain),
            f"{fmean(_spent(row, 'completion_tokens') for row in kept):,.0f}",
            f"{fmean(_spent(row, 'calls') for row in kept):.1f}",
        ]
        if alone:
            line += [f"{fmean(row['seconds'] for row in kept):.1f}", _counted(kept)]
        body.append(line)
    return table(head, body)


def _interval(gain: Interval) -> str:
    return f"{gain.mean:+.0f} ({gain.low:+.0f} to {gain.high:+.0f})"


def _counted(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write down on how many questions the ledger is the engine's count, token for token."""
    known = [row for row in rows if "engine_tokens" in row]
    if not known:
        return "–"
    equal = sum(row["engine_tokens"] == _spent(row, "completion_tokens") for row in known)
    return f"equal on {equal} of {len(known)}"


def _spent(row: Mapping[str, Any], what: str) -> int:
    return sum(int(stage[what]) for stage in row["usage"].values())


async def same_choices(chosen: LiveSet, rows: Sequence[Mapping[str, Any]]) -> str:
    """Say on how many questions `auto` chose live what replay chooses on the same samples."""
    same = asked = 0
    async with aclosing(AnswerEquality()) as equality:
        for row in rows:
            spec = chosen.strategies[row["strategy"]].strategy
            if spec["type"] == "auto":
                strategy = ComputeOptimal.model_validate({**spec, "type": "compute_optimal"})
                budget = Budget(**chosen.budget)
                again = await choose_again(strategy, row["events"], budget, equality)
                same += json.loads(json.dumps(again)) == chosen_of(row["events"])
                asked += 1
    return f"`auto` chose live what it chooses by replay on the same samples: {same} of {asked}."


def report() -> None:
    """Write the section of `docs/results.md` from the recordings that are kept."""
    parts = []
    for name, chosen in SETS.items():
        if rows := rows_of(DATA / f"live_{name}.jsonl.gz"):
            parts.append(figures_of(name, rows))
            if any(each.strategy["type"] == "auto" for each in chosen.strategies.values()):
                parts.append(asyncio.run(same_choices(chosen, rows)))
    made = circumstances("python -m loadtests.live")
    write_section("live", "\n\n".join([*parts, made]))


async def run(name: str, url: str, count: int | None, out: Path) -> None:
    """Record a set, with a bar."""
    out.parent.mkdir(parents=True, exist_ok=True)
    bar = Progress(TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with bar:
        async with httpx.AsyncClient(base_url=url, timeout=900) as client:
            await Recorder(SETS[name], client, out).record(count or SETS[name].problems, bar)


def main() -> None:
    """Record, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("set", nargs="?", choices=SETS)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--problems", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report or options.set is None:
        report()
        return
    out = options.out or Path(__file__).parent / "out" / f"live_{options.set}.jsonl"
    asyncio.run(run(options.set, options.url, options.problems, out))


if __name__ == "__main__":
    main()
