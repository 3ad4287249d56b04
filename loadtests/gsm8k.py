"""What self-consistency buys on GSM8K: accuracy, tokens and abstentions, over the API.

    python -m loadtests.gsm8k --url http://127.0.0.1:8000 --problems 100 --n 8
    python -m loadtests.gsm8k --report

Every problem is asked once with `self_consistency`; the response holds the samples, so the single
sample that it is compared with is the mean of the very same samples. Answers go to an append-only
file, one line a problem: an interrupted run goes on where it stopped. References are compared by
`verifiers/answers.py`, as everywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loadtests.inference import paired_bootstrap
from loadtests.report import circumstances, table, write_section
from loadtests.rows import rows_of
from loadtests.tasks.base import BOXED
from loadtests.tasks.discovery import task_named
from verifiers.answers import extract
from verifiers.equality import AnswerEquality

HERE = Path(__file__).parent
RECORDED = HERE / "data" / "gsm8k_self_consistency.jsonl.gz"
"""The run that `docs/results.md` reports."""
CONCURRENCY = 4
CAP = 320
TEMPERATURE = 0.8


def problems(count: int) -> list[dict[str, str]]:
    """Return the first problems of the development fold: `question`, and `reference`, a number."""
    return [
        {"question": each.question, "reference": each.reference}
        for each in task_named("gsm8k").problems()[:count]
    ]


async def record(url: str, count: int, n: int, out: Path, model: str) -> None:
    """Ask every problem that `out` does not hold yet, and append the answers."""
    out.parent.mkdir(parents=True, exist_ok=True)
    known = {row["problem"] for row in _rows(out)}
    todo = [(i, each) for i, each in enumerate(problems(count)) if i not in known]
    limit = asyncio.Semaphore(CONCURRENCY)
    with Progress(
        TextColumn("GSM8K"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    ) as progress:
        bar = progress.add_task("", total=count, completed=count - len(todo))

        async def ask(index: int, problem: dict[str, str]) -> None:
            async with limit:
                row = await _ask(client, problem, n, model)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"problem": index, **problem, **row}) + "\n")
            progress.advance(bar)

        async with (
            httpx.AsyncClient(base_url=url, timeout=1_200) as client,
            asyncio.TaskGroup() as group,
        ):
            for index, problem in todo:
                group.create_task(ask(index, problem))


async def _ask(
    client: httpx.AsyncClient, problem: dict[str, str], n: int, model: str
) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": [
            {"role": "system", "content": BOXED},
            {"role": "user", "content": problem["question"]},
        ],
        "strategy": {"type": "self_consistency", "n": n},
        "temperature": TEMPERATURE,
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "max_completion_tokens": CAP,
        "budget": {"max_tokens": CAP * n, "deadline_s": 600},
        "include": ["candidates"],
    }
    response = await client.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    answer = response.json()
    return {
        "answer": answer["scaling"]["answer"],
        "agreement": answer["scaling"]["agreement"],
        "abstentions": answer["scaling"]["abstentions"],
        "tokens": answer["usage"]["completion_tokens"],
        "samples": [each["content"] for each in answer["scaling"]["candidates"]],
    }


async def report(out: Path, model: str) -> None:
    """Write the section of `docs/results.md`."""
    text = await figures_of(out, model)
    write_section("gsm8k", f"{text}\n{circumstances('python -m loadtests.gsm8k')}")


async def figures_of(out: Path, model: str) -> str:
    """Judge a recorded run and write down what it shows."""
    rows = _rows(out)
    equality = AnswerEquality()
    single, voted = [], []
    for row in rows:
        samples = [extract(text) for text in row["samples"]]
        verdicts = await _correct([*samples, row["answer"]], row["reference"], equality)
        single.append(sum(verdicts[:-1]) / len(samples))
        voted.append(float(verdicts[-1]))
    await equality.aclose()
    n = len(rows[0]["samples"])
    draws = sum(len(row["samples"]) for row in rows)
    gain = paired_bootstrap([100 * (v - s) for v, s in zip(voted, single, strict=True)])
    tokens = sum(row["tokens"] for row in rows)
    one, vote = 100 * sum(single) / len(rows), 100 * sum(voted) / len(rows)
    abstained = sum(row["abstentions"] for row in rows) / draws
    head = [
        f"GSM8K development fold, {len(rows)} problems, {model}",
        "correct",
        "tokens a question",
    ]
    figures = table(
        head,
        [
            [f"one sample (the mean of the same {n})", f"{one:.1f} %", f"{tokens / draws:.0f}"],
            [f"`self_consistency`, n = {n}", f"{vote:.1f} %", f"{tokens / len(rows):.0f}"],
        ],
    )
    return f"""\
{figures}

Gain: {gain.mean:+.1f} points, 95 % interval {gain.low:+.1f} to {gain.high:+.1f} (paired bootstrap
over problems). {abstained:.1%} of the samples abstained: they gave no answer that could be read,
mostly because they were cut at {CAP} tokens. T = {TEMPERATURE}, top_p 1, system prompt
"{BOXED}"."""


async def _correct(
    answers: Sequence[str | None], reference: str, equality: AnswerEquality
) -> list[bool]:
    pairs = [(answer, reference) for answer in answers if answer is not None]
    verdicts = iter(await equality.equal(pairs))
    return [answer is not None and next(verdicts) for answer in answers]


def _rows(path: Path) -> list[dict[str, Any]]:
    return sorted(rows_of(path), key=lambda row: int(row["problem"]))


def main() -> None:
    """Record, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--out", type=Path, help="append-only record (default: by --report, ours)")
    parser.add_argument("--report", action="store_true", help="write docs/results.md and stop")
    options = parser.parse_args()
    if options.report:
        asyncio.run(report(options.out or RECORDED, options.model))
    else:
        out = options.out or HERE / "out" / "gsm8k.jsonl"
        asyncio.run(record(options.url, options.problems, options.n, out, options.model))


if __name__ == "__main__":
    main()
