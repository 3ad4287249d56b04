"""`forethought ask` against a server: what it prints in a pipe, and on a terminal."""

import io
import json
import re
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from rich.console import Console

from server.commands.live import Run, view
from tests.server.serving import FORETHOUGHT, environment, serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as server:
        yield server.url


def ask(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(FORETHOUGHT), "ask", "--url", url, *options],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )


def test_votes_answer_and_cost(url: str) -> None:
    done = ask(url, "What is 6 * 7?", "--strategy", "self_consistency", "--set", "n=5")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum("] sampled " in line for line in lines) == 5
    assert sum("] voted " in line for line in lines) == 1
    bill = lines[-1]
    assert bill.startswith("answer ")
    assert "agreement " in bill
    assert "5 calls" in bill
    counted = [int(found) for found in re.findall(r"sampled .*: (\d+) tokens", done.stdout)]
    assert f"{sum(counted)} tokens" in bill


def test_scores_and_verifier(url: str) -> None:
    done = ask(
        url,
        "What is 6 * 7?",
        "--strategy",
        "best_of_n",
        "--set",
        "n=3",
        "--verifier",
        json.dumps({"name": "math", "reference": "42"}),
        "--budget",
        "1000",
        "--system",
        "Be brief.",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("] scored ") == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "nn=3"), "strategy.nn: "),
        (("--set", "n=0"), "strategy.n: "),
        (("--strategy", "best_of"), "strategy"),
        (("--budget", "3"), "budget.max_tokens: "),
        (("--verifier", "nobody"), "verifier: "),
        (("--model", "nothing"), "model: "),
    ],
)
def test_errors_are_one_line_with_the_field(url: str, options: tuple[str, ...], said: str) -> None:
    done = ask(url, "Why?", *options)
    assert done.returncode == 1
    assert done.stderr.startswith(f"forethought: {said}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"), [(("--set", "n"), "KEY=VALUE"), (("--verifier", "{name"), "not JSON")]
)
def test_wrong_options_cost_no_request(options: tuple[str, ...], said: str) -> None:
    done = ask("http://127.0.0.1:9", "Why?", *options)
    assert done.returncode == 2
    assert said in done.stderr


def test_no_server() -> None:
    done = ask("http://127.0.0.1:9", "Why?")
    assert done.returncode == 1
    assert "nothing answers at http://127.0.0.1:9" in done.stderr


def test_terminal_view_of_a_real_stream(url: str) -> None:
    messages = [{"role": "user", "content": "What is 6 * 7?"}]
    body = {
        "messages": messages,
        "strategy": {"type": "best_of_n", "n": 6},
        "stream": True,
        "stream_options": {"include_usage": True, "include_progress": True},
    }
    run = Run(messages)
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                run.feed(json.loads(line.removeprefix("data: ")))
    assert len(run.samples) == 6
    assert len(run.scores) == 6
    drawn = io.StringIO()
    Console(file=drawn, force_terminal=True, width=100).print(view(run, finished=True))
    assert "6 samples" in drawn.getvalue()
    assert "100%" in drawn.getvalue() or "%" in drawn.getvalue()
    assert "12 calls" in drawn.getvalue()


def test_a_model_cannot_steer_the_terminal() -> None:
    run = Run([{"role": "user", "content": "?"}])
    sampled = {
        "id": "0.0.0",
        "stage": "sample",
        "tokens": 3,
        "text": "\\boxed{\x1b[2Jcleared}",
        "finish_reason": "stop",
    }
    run.feed(
        {"choices": [], "scaling": {"event": {"kind": "sampled", "seconds": 1, "data": sampled}}}
    )
    run.feed({"choices": [{"index": 0, "delta": {"content": "\x1b]0;title\x07text"}}]})
    drawn = io.StringIO()
    Console(file=drawn, width=100).print(view(run, finished=True))
    assert "\x1b" not in drawn.getvalue()
    assert "title" in drawn.getvalue()
