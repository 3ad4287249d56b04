"""Strategies on a real model: accuracy, tokens and seconds, question by question.

    FORETHOUGHT_TRACES=traces.db forethought serve --port 8000 &
    python -m loadtests.live search --url http://127.0.0.1:8000 [--problems 20]
    python -m loadtests.live --report

A set of strategies (SETS below) is asked the first problems of the GSM8K development fold, one
request at a time; the strategies take turns on each problem, so that a machine that changes its
speed changes it for all. Beside each answer stands what the engine itself counted, and what the
trace says of a strategy's choice. Answers go to an append-only file, a line each: an interrupted
run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
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
from loadtests.report import circumstances, table, write_section
from loadtests.tasks.base import Problem
from loadtests.tasks.discovery import task_named
from strategies.budget import Budget
from strategies.compute_optimal import ComputeOptimal
from verifiers.equality import AnswerEquality
from verifiers.types import Candidate

DATA = Path(__file__).parent / "data"
CAP = 320
BUDGETED = {"max_tokens": 2_000, "max_calls": 512, "deadline_s": 300}
AMPLE = {"max_tokens": 16_384, "max_calls": 512, "deadline_s": 600}
GENERATED = 'forethought_engine_generated_tokens_total{engine="main"}'
SETTLED_S = 0.3
"""After an answer, until the engine has told of its last step."""
SAMPLING = {"temperature": 0.8, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}

SETS: dict[str, dict[str, dict[str, Any]]] = {
    "search": {
        "best_of_n, n = 7": {"type": "best_of_n", "n": 7},
        "beam, n = 8": {"type": "beam", "n": 8},
        "dvts, n = 8": {"type": "dvts", "n": 8},
        "rebase, n = 8": {"type": "rebase", "n": 8},
        "mcts": {"type": "mcts"},
    },
    "stopping": {
        "self_consistency, n = 16": {"type": "self_consistency", "n": 16},
        "adaptive_consistency, n = 16": {"type": "adaptive_consistency", "n": 16},
        "deep_confidence, n = 16": {
            "type": "deep_confidence",
            "n": 16,
            "warm_up": 4,
            "window": 64,
        },
        "auto, n = 16": {"type": "auto", "n": 16},
    },
}
"""Strategies by name; the first of a set is what the others are compared with."""
BUDGETS = {"search": BUDGETED, "stopping": AMPLE}


async def record(name: str, url: str, count: int, out: Path) -> None:
    """Ask what `out` does not hold yet."""
    known = {(row["problem"], row["strategy"]) for row in rows_of(out)}
    problems = task_named("gsm8k").problems()[:count]
    todo = [
        (problem, strategy)
        for problem in problems
        for strategy in SETS[name]
        if (problem.id, strategy) not in known
    ]
    equality = AnswerEquality()
    bar = Progress(TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    total = len(problems) * len(SETS[name])
    try:
        with bar:
            line = bar.add_task("", total=total, completed=total - len(todo))
            async with httpx.AsyncClient(base_url=url, timeout=900) as client:
                for problem, strategy in todo:
                    row = await ask(client, name, problem, strategy, equality)
                    with out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    bar.advance(line)
    finally:
        await equality.aclose()


async def ask(
    client: httpx.AsyncClient,
    name: str,
    problem: Problem,
    strategy: str,
    equality: AnswerEquality,
) -> dict[str, Any]:
    """Ask one question with one strategy; return what is worth keeping."""
    body = {
        "messages": list(problem.messages),
        "strategy": SETS[name][strategy],
        "budget": BUDGETS[name],
        "max_completion_tokens": CAP,
        **SAMPLING,
    }
    before = await engine_tokens(client)
    response = await client.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    said = response.json()
    made = await engine_tokens(client) - before
    text = said["choices"][0]["message"]["content"]
    reply = Candidate("0", text, finish_reason=said["choices"][0]["finish_reason"])
    (verdict,) = await task_named("gsm8k").grade(problem, [reply], equality)
    scaling = said["scaling"]
    return {
        "problem": problem.id,
        "strategy": strategy,
        "correct": bool(verdict.correct),
        "text": text,
        "answer": scaling["answer"],
        "stopped_by": scaling["stopped_by"],
        "usage": scaling["usage"],
        "seconds": scaling["seconds"],
        "engine_tokens": made,
        "events": await choice_events(client, said["id"]) if "auto" in strategy else [],
    }


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


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read a recording, compressed or not; none yet: no rows."""
    if not path.exists():
        return []
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line) for line in lines]


def figures_of(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write down a set's table, over the problems that all its strategies answered."""
    by_strategy = {
        strategy: {row["problem"]: row for row in rows if row["strategy"] == strategy}
        for strategy in SETS[name]
    }
    shared = sorted(set.intersection(*(set(each) for each in by_strategy.values())))
    first = next(iter(by_strategy.values()))
    head = ["strategy", "right", "minus the first, points", "tokens", "the engine's count"]
    head += ["calls", "seconds"]
    body = []
    for strategy, answered in by_strategy.items():
        kept = [answered[problem] for problem in shared]
        gain = paired_bootstrap(
            [100.0 * (answered[p]["correct"] - first[p]["correct"]) for p in shared]
        )
        body.append(
            [
                strategy,
                f"{sum(row['correct'] for row in kept)} of {len(kept)}",
                "–" if answered is first else _interval(gain),
                f"{fmean(_spent(row, 'completion_tokens') for row in kept):,.0f}",
                _counted(kept),
                f"{fmean(_spent(row, 'calls') for row in kept):.1f}",
                f"{fmean(row['seconds'] for row in kept):.1f}",
            ]
        )
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


async def same_choices(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say on how many questions `auto` chose live what replay chooses on the same samples."""
    auto = {name: spec for name, spec in SETS["stopping"].items() if spec["type"] == "auto"}
    (name, spec), same, asked = next(iter(auto.items())), 0, 0
    strategy = ComputeOptimal(**{**spec, "type": "compute_optimal"})
    equality = AnswerEquality()
    async with aclosing(equality):
        for row in rows:
            if row["strategy"] == name:
                again = await choose_again(strategy, row["events"], Budget(**AMPLE), equality)
                same += json.loads(json.dumps(again)) == chosen_of(row["events"])
                asked += 1
    return f"`auto` chose live what it chooses by replay on the same samples: {same} of {asked}."


def report() -> None:
    """Write the section of `docs/results.md` from the recordings that are kept."""
    parts = []
    for name in SETS:
        if rows := rows_of(DATA / f"live_{name}.jsonl.gz"):
            parts.append(figures_of(name, rows))
            if name == "stopping":
                parts.append(asyncio.run(same_choices(rows)))
    made = circumstances("python -m loadtests.live")
    write_section("live", "\n\n".join([*parts, made]))


def main() -> None:
    """Record, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("set", nargs="?", choices=SETS)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report or options.set is None:
        report()
        return
    out = options.out or Path(__file__).parent / "out" / f"live_{options.set}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    asyncio.run(record(options.set, options.url, options.problems, out))


if __name__ == "__main__":
    main()
