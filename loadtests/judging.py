"""What verifiers that need no training tell of recorded replies: judges, p("Yes"), one another.

    forethought serve --port 8000 &
    python -m loadtests.judging --url http://127.0.0.1:8000 [--problems 20] [--samples 8]
    python -m loadtests.judging --report

Every verifier below scores the first samples of the first problems of a pool that have both right
and wrong ones among them, through `POST /v1/verify`. Answers go to an append-only file, a line a
verifier and problem: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loadtests.auc import pair_outcomes
from loadtests.inference import cluster_bootstrap
from loadtests.pools import POOLS, Recorded, open_pool
from loadtests.report import circumstances, table, write_section
from loadtests.rows import rows_of

POOL = "gsm8k-qwen2.5-coder-0.5b"
VERIFIERS = ("judge", "pairwise_judge", "listwise_judge", "generative", "agreement")
RECORDED = Path(__file__).parent / "data" / "judging.jsonl.gz"
OUT = Path(__file__).parent / "out" / "judging.jsonl"
BUDGET = {"max_tokens": 16_384, "max_calls": 1_024, "deadline_s": 600}


def mixed(count: int, samples: int) -> Iterator[Recorded]:
    """Yield the first problems whose first samples are neither all right nor all wrong."""
    for recorded in open_pool(POOLS / POOL).recorded:
        first = recorded.samples[:samples]
        if count and 0 < sum(bool(each.correct) for each in first) < samples:
            yield Recorded(recorded.problem, first)
            count -= 1


async def record(url: str, count: int, samples: int, out: Path) -> None:
    """Ask for every score that `out` does not hold yet."""
    out.parent.mkdir(parents=True, exist_ok=True)
    known = {(row["problem"], row["verifier"]) for row in rows_of(out)}
    asked = [(each, name) for each in mixed(count, samples) for name in VERIFIERS]
    bar = Progress(
        TextColumn("Verifiers"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
    with bar:
        line = bar.add_task("", total=len(asked))
        async with httpx.AsyncClient(base_url=url, timeout=900) as client:
            for recorded, name in asked:
                if (recorded.problem.id, name) not in known:
                    row = await ask(client, recorded, name)
                    with out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                bar.advance(line)


async def ask(client: httpx.AsyncClient, recorded: Recorded, verifier: str) -> dict[str, Any]:
    """Let one verifier score the samples of one problem."""
    body = {
        "messages": list(recorded.problem.messages),
        "candidates": [each.text for each in recorded.samples],
        "verifier": verifier,
        "budget": BUDGET,
    }
    response = await client.post("/v1/verify", json=body)
    response.raise_for_status()
    said = response.json()
    by_index = sorted(said["data"], key=lambda each: each["index"])
    return {
        "problem": recorded.problem.id,
        "verifier": verifier,
        "scores": [None if each["abstained"] else each["score"] for each in by_index],
        "correct": [bool(each.correct) for each in recorded.samples],
        "usage": said["scaling"]["usage"]["verify"],
        "seconds": said["scaling"]["seconds"],
    }


def figures_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the table: how often the right reply of a pair has the higher score, at what cost."""
    head = ["verifier", "AUC within questions, 95 %", "abstains", "calls", "prompt tokens"]
    head += ["of them cached", "generated"]
    body = []
    for name in VERIFIERS:
        own = [row for row in rows if row["verifier"] == name]
        if not own:
            continue
        pairs = [pair_outcomes(row["scores"], row["correct"]) for row in own]
        found = cluster_bootstrap(pairs, pooled=True)
        scores = [score for row in own for score in row["scores"]]
        counts = ("calls", "prompt_tokens", "cached_tokens", "completion_tokens")
        body.append(
            [
                f"`{name}`",
                f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})",
                f"{sum(score is None for score in scores) / len(scores):.0%}",
                *(f"{fmean(row['usage'][count] for row in own):,.0f}" for count in counts),
            ]
        )
    return table(head, body)


def report() -> None:
    """Write the section of `docs/results.md` from the recording that is kept."""
    made = circumstances("python -m loadtests.judging")
    write_section("judging", f"{figures_of(rows_of(RECORDED))}\n\n{made}")


def main() -> None:
    """Record, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        report()
    else:
        asyncio.run(record(options.url, options.problems, options.samples, options.out))


if __name__ == "__main__":
    main()
