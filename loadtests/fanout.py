"""What sharing the prefill of n samples is worth: ours against a plain vLLM OpenAI server.

    python -m loadtests.fanout --model qwen2.5-coder-0.5b-instruct

Both servers run the same model with the same dtype, threads, eager flag and KV space; the plain one
has vLLM's default block size. Requests alternate between the two, every one with another prompt,
so that nothing comes from an earlier one. Ratios are medians over pairs. A server that is not
being asked is idle.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.report import circumstances, table, write_section
from loadtests.servers import Server, free_port, serving
from server.models import SilentProgress, resolve
from server.store.opening import MEMORY

OUT = Path(__file__).parent / "out"
KV_CACHE_GIB = 2
WORDS = ["river", "stone", "lamp", "green", "seven", "copper", "north", "paper", "cloud", "table"]


class Prompts:
    """Different prompts of an exact number of tokens, chat template included."""

    def __init__(self, model: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._rng = random.Random(0)

    def make(self, tokens: int) -> list[dict[str, str]]:
        """Return messages that the chat template turns into that many tokens."""
        words = [str(self._rng.randrange(10**6)), *self._rng.choices(WORDS, k=tokens)]
        while (length := self._length(words)) > tokens:
            words = words[: len(words) - max(1, (length - tokens) // 2)]
        while self._length(words) < tokens:
            words.append("a")
        return self._messages(words)

    def _messages(self, words: list[str]) -> list[dict[str, str]]:
        return [{"role": "user", "content": " ".join(words)}]

    def _length(self, words: list[str]) -> int:
        ids = self._tokenizer.apply_chat_template(
            self._messages(words), add_generation_prompt=True, return_dict=True
        )
        return len(ids["input_ids"])


def ask(server: Server, model: str, messages: list[dict[str, str]], n: int, tokens: int) -> float:
    """Return the seconds that n samples of exactly `tokens` tokens take."""
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "n": n,
        "max_completion_tokens": tokens,
        "min_tokens": tokens,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
    }
    started = time.perf_counter()
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=600)
    seconds = time.perf_counter() - started
    response.raise_for_status()
    made = response.json()["usage"]["completion_tokens"]
    if made != n * tokens:
        raise RuntimeError(f"{made} tokens instead of {n * tokens}")
    return seconds


def pairs(
    title: str, count: int, ours: Callable[[], float], theirs: Callable[[], float]
) -> dict[str, Any]:
    """Alternate between two measurements, changing which goes first; return all and the ratio."""
    ours()
    theirs()
    measured = []
    for index in track(range(count), title):
        order = (ours, theirs) if index % 2 else (theirs, ours)
        seconds = {each: each() for each in order}
        measured.append((seconds[ours], seconds[theirs]))
    return {
        "what": title,
        "ours": statistics.median(a for a, _ in measured),
        "other": statistics.median(b for _, b in measured),
        "ratio": statistics.median(a / b for a, b in measured),
        "pairs": measured,
    }


def measure(
    ours: Server, plain: Server, model: str, prompts: Prompts, count: int, *, short: bool
) -> list[Any]:
    """Run the three comparisons, or the two short ones."""

    def timed(server: Server, length: int, n: int, tokens: int) -> Callable[[], float]:
        return lambda: ask(server, model, prompts.make(length), n, tokens)

    rows = [
        pairs(
            "128-token prompt, n=16, 1 token: ours / plain vLLM",
            count,
            timed(ours, 128, 16, 1),
            timed(plain, 128, 16, 1),
        ),
        pairs(
            "600-token prompt, 1 token: ours n=16 / ours n=1",
            count,
            timed(ours, 600, 16, 1),
            timed(ours, 600, 1, 1),
        ),
    ]
    if not short:
        rows.append(
            pairs(
                "128-token prompt, n=16, 200 tokens: ours / plain vLLM",
                count,
                timed(ours, 128, 16, 200),
                timed(plain, 128, 16, 200),
            )
        )
    return rows


def commands(path: Path, model: str) -> tuple[list[str], int, list[str], int]:
    """Return how to start ours and the plain server, and their ports."""
    ours, plain = free_port(), free_port()
    forethought = [
        *(str(Path(sys.executable).with_name("forethought")), "serve"),
        *("--model", model, "--port", str(ours)),
    ]
    vllm = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(path), "--served-model-name", model),
        *("--host", "127.0.0.1", "--port", str(plain), "--enforce-eager"),
        *("--dtype", "bfloat16", "--max-num-seqs", "64"),
        *("--kv-cache-memory-bytes", str(KV_CACHE_GIB << 30)),
    ]
    return forethought, ours, vllm, plain


def main() -> None:
    """Start both servers, measure, print a table, keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="one-token requests only; no report")
    options = parser.parse_args()
    path = resolve(options.model, SilentProgress()).path
    forethought, ours_port, vllm, plain_port = commands(path, options.model)
    threads = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    environment = {
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_OMP_THREADS_BIND": threads,
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "FORETHOUGHT_OPTIONS__KV_CACHE_GIB": str(KV_CACHE_GIB),
        "FORETHOUGHT_OPTIONS__DTYPE": "bfloat16",
        "FORETHOUGHT_STORE": MEMORY,
    }
    with (
        serving(
            forethought, ours_port, ready="/readyz", log=OUT / "fanout-ours.log",
            environment=environment,
        ) as ours,
        serving(
            vllm, plain_port, ready="/health", log=OUT / "fanout-plain.log",
            environment=environment,
        ) as plain,
    ):  # fmt: skip
        rows = measure(
            ours, plain, options.model, Prompts(path), options.pairs, short=options.short
        )
    head = ["what, medians over pairs", "first s", "second s", "ratio", "of the pairs"]
    body = [
        [
            row["what"],
            *(f"{row[key]:.2f}" for key in ("ours", "other", "ratio")),
            " to ".join(f"{each(a / b for a, b in row['pairs']):.2f}" for each in (min, max)),
        ]
        for row in rows
    ]
    shown = Table(*head)
    for line in body:
        shown.add_row(*line)
    Console().print(shown)
    write_section("fanout", f"{table(head, body)}\n\n{circumstances('python -m loadtests.fanout')}")
    (OUT / "fanout.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
