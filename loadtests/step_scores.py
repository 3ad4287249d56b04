"""Step scores under load: eight requests at once against one after another, and one by one.

    forethought serve --port 8000 &
    python -m loadtests.step_scores --url http://127.0.0.1:8000 [--rounds 3]
    python -m loadtests.step_scores --report

A request brings eight recorded replies of about 200 tokens to one question, for `process_reward`
to score through `POST /v1/verify`. The model was not trained for its labels, so what it says of the
steps is worth nothing; what it takes to ask is the same. Three ways to have 64 replies scored take
turns: a request for each reply, one after another; eight requests, one after another; eight
requests at once. Every run puts another mark before its questions, so that nothing is found in the
cache that another left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
from rich.console import Console

from loadtests.pools import POOLS, open_pool
from loadtests.report import circumstances, table, write_section
from verifiers.types import JSONObject

POOL = "gsm8k-qwen2.5-coder-1.5b"
RECORDED = Path(__file__).parent / "data" / "step_scores.json"
REQUESTS, REPLIES = 8, 8
LENGTHS = range(150, 251)
"""Tokens of a reply."""
BUDGET = {"max_tokens": 16_384, "max_calls": 1_024, "deadline_s": 600}


def bodies() -> list[dict[str, Any]]:
    """Return eight requests of eight replies each."""
    made: list[dict[str, Any]] = []
    for recorded in open_pool(POOLS / POOL).recorded:
        fitting = [each for each in recorded.samples if each.completion_tokens in LENGTHS]
        if len(fitting) >= REPLIES and len(made) < REQUESTS:
            made.append(
                {
                    "messages": list(recorded.problem.messages),
                    "candidates": [each.text for each in fitting[:REPLIES]],
                    "verifier": "process_reward",
                    "budget": BUDGET,
                }
            )
    return made


def marked(requests: Sequence[JSONObject]) -> list[dict[str, Any]]:
    """Put a mark of this run before every conversation."""
    mark = {"role": "system", "content": f"Run {secrets.token_hex(8)}."}
    made: list[dict[str, Any]] = []
    for each in requests:
        first, *others = each["messages"]
        opening = [{**mark, "content": f"{mark['content']} {first['content']}"}, *others]
        made.append({**each, "messages": opening})
    return made


def singly(requests: Sequence[JSONObject]) -> list[dict[str, Any]]:
    """Make a request for every reply."""
    return [{**each, "candidates": [text]} for each in requests for text in each["candidates"]]


async def one_after_another(
    client: httpx.AsyncClient, requests: Sequence[JSONObject]
) -> list[float]:
    """Return the seconds of each."""
    return [await _ask(client, each) for each in requests]


async def at_once(client: httpx.AsyncClient, requests: Sequence[JSONObject]) -> list[float]:
    """Return the seconds of each."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_ask(client, each)) for each in requests]
    return [task.result() for task in tasks]


async def _ask(client: httpx.AsyncClient, body: JSONObject) -> float:
    started = time.perf_counter()
    response = await client.post("/v1/verify", json=body)
    response.raise_for_status()
    seconds = time.perf_counter() - started
    asked = response.json()["scaling"]["usage"]["verify"]["calls"]
    if asked < len(body["candidates"]):
        raise ValueError("not every reply was asked about")
    return seconds


async def measure(url: str, rounds: int) -> dict[str, Any]:
    """Let the three ways take turns; return every request's seconds."""
    requests, told = bodies(), Console(stderr=True)
    rows = []
    async with httpx.AsyncClient(base_url=url, timeout=900) as client:
        await one_after_another(client, marked(requests[:1]))  # what is compiled once is not timed
        for number in range(rounds):
            row = {
                "singly": await one_after_another(client, singly(marked(requests))),
                "in turn": await one_after_another(client, marked(requests)),
                "at once": await at_once(client, marked(requests)),
            }
            rows.append(row)
            totals = {name: round(_total(name, seconds), 1) for name, seconds in row.items()}
            told.print(f"round {number + 1} of {rounds}: {totals} s")
    return {"rounds": rows}


def _total(name: str, seconds: Sequence[float]) -> float:
    return max(seconds) if name == "at once" else sum(seconds)


def figures_of(recorded: JSONObject) -> str:
    """Write the table: replies a second, and how long requests took beside the others."""
    rounds = recorded["rounds"]
    ways = {
        "singly": "64 requests of one reply, one after another",
        "in turn": "8 requests of 8 replies, one after another",
        "at once": "8 requests of 8 replies at once",
    }
    single = fmean(_total("singly", each["singly"]) for each in rounds)
    body = []
    for way, words in ways.items():
        total = fmean(_total(way, each[way]) for each in rounds)
        slowest = fmean(max(each[way]) / fmean(each[way]) for each in rounds)
        body.append(
            [
                words,
                f"{REQUESTS * REPLIES / total:.2f}",
                f"{single / total:.2f}",
                f"{fmean(fmean(each[way]) for each in rounds):.1f}",
                f"{slowest:.2f}",
            ]
        )
    head = ["64 replies", "replies a second", "ratio", "seconds a request", "slowest by the mean"]
    return table(head, body)


def main() -> None:
    """Measure, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if not options.report:
        measured = asyncio.run(measure(options.url, options.rounds))
        RECORDED.write_text(json.dumps(measured) + "\n", encoding="utf-8")
    figures = figures_of(json.loads(RECORDED.read_text(encoding="utf-8")))
    write_section("step_scores", f"{figures}\n\n{circumstances('python -m loadtests.step_scores')}")


if __name__ == "__main__":
    main()
