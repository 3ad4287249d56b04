"""ASGI apps on real sockets, in the loop of the test, and a small pool to put behind them."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from random import Random

import uvicorn
from starlette.types import ASGIApp

from loadtests.pools import Manifest, Pool, Sample, append, open_pool, write_manifest
from loadtests.tasks.base import Problem
from server.app import create_app
from server.engines.http import HTTPEngine
from tests.server.local import make_state

MODEL = "tiny"
SAMPLES = 16
QUESTIONS = ("What is 6 times 7?", "Add 20 and 22.", "What is 6 times 7? Say why.", "Halve 84.")


def make_pool(path: Path, model: str = MODEL, *, whole: bool = True, seconds: float = 0.5) -> Pool:
    """Record 16 invented samples a question; not `whole`: without lengths and log-probabilities."""
    problems = tuple(
        Problem(f"p{number}", ({"role": "user", "content": text},), "42")
        for number, text in enumerate(QUESTIONS)
    )
    write_manifest(path, Manifest("sums", model, SAMPLES, {}, problems))
    rows = [
        make_sample(problem.id, number, whole, seconds)
        for problem in problems
        for number in range(SAMPLES)
    ]
    append(path / "one.jsonl.gz", rows)
    return open_pool(path)


def make_sample(problem: str, number: int, whole: bool, seconds: float) -> Sample:
    """Invent a reply whose tokens are of uneven length, with an end token of none."""
    draw = Random(f"{problem}.{number}")
    words = draw.choices(("so ", "then ", "hence\n\n", "7 ", "twelve "), k=draw.randint(6, 30))
    answer = draw.choice(("42", "42", "12", "7"))
    tokens = [*words, "\\boxed", "{", answer, "}", ""] if draw.random() < 0.8 else [*words, ""]
    count = len(tokens)
    return Sample(
        problem,
        number,
        "".join(tokens),
        "length" if draw.random() < 0.1 else "stop",
        20 + int(problem[1:]),
        count,
        lengths=tuple(map(len, tokens)) if whole else (),
        logprobs=tuple(round(-draw.random(), 3) for _ in tokens) if whole else (),
        confidence=tuple(round(5 + draw.random(), 2) for _ in tokens) if whole else (),
        seconds=seconds,
    )


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an app on a free port of 127.0.0.1 until the block ends; yields its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await until(lambda: server.started or running.done())
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def ours(upstream: str) -> AsyncIterator[tuple[str, HTTPEngine]]:
    """Serve Forethought with the HTTP engine in front of an upstream."""
    async with aclosing(await HTTPEngine.start(f"{upstream}/v1", MODEL)) as engine:
        state = make_state(engine)
        async with aclosing(state.service.equivalence), serving(create_app(state)) as url:  # type: ignore[type-var]
            yield url, engine


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too late"
        await asyncio.sleep(0.005)
