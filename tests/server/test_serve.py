"""`forethought serve` from outside: what it prints, serves, refuses, and how it ends."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.server.serving import FORETHOUGHT, environment, serving

pytestmark = pytest.mark.slow

SLOW = {"delay_s": "0.02"}
QUESTION = {"messages": [{"role": "user", "content": "How long is a piece of string?"}]}


def refused(*options: str, **settings: str) -> str:
    """Run a command that must fail at once; return what it says."""
    done = subprocess.run(
        [str(FORETHOUGHT), "serve", *options],
        capture_output=True,
        text=True,
        env=environment(**settings),
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return done.stderr


def test_first_requests_that_it_prints_work() -> None:
    with serving() as server:
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        assert b"forethought_samples_slots" in httpx.get(f"{server.url}/metrics").content

        [curl] = re.findall(r"^curl .*\n.*$", server.announcement, re.MULTILINE)
        answered = subprocess.run(["bash", "-c", curl], capture_output=True, check=True)
        reply = json.loads(answered.stdout)
        assert reply["choices"][0]["message"]["content"]
        assert reply["scaling"]["strategy"] == "self_consistency"

        [program] = re.findall(r"^from openai.*?\)\nprint.*?$", server.announcement, re.M | re.S)
        python = [sys.executable, "-c", program]
        assert subprocess.run(python, capture_output=True, text=True, check=True).stdout.strip()

        [ask] = re.findall(r"^forethought ask .*$", server.announcement, re.MULTILINE)
        asked = [str(FORETHOUGHT), *shlex.split(ask)[1:]]
        assert "tokens" in subprocess.run(asked, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_an_open_stream(number: signal.Signals) -> None:
    with serving(**SLOW) as server:
        body = QUESTION | {"stream": True, "stream_options": {"include_usage": True}}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            while "content" not in next(lines):
                pass
            server.process.send_signal(number)
            time.sleep(0.3)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{server.url}/healthz")
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"usage"' in rest[-2]
        code, errors = server.end()
        assert code == 0, errors
        assert "Traceback" not in errors


def test_an_idle_server_ends_at_once() -> None:
    with serving() as server, httpx.Client() as client:
        client.get(f"{server.url}/healthz")  # and keeps the connection
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.end()[0] == 0
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(("drain_s", "signals"), [("60", 2), ("1", 1)])
def test_requests_that_take_too_long_are_dropped(drain_s: str, signals: int) -> None:
    """Either the operator is impatient, and says so by a second signal, or the setting is."""
    with serving(delay_s="1", drain_s=drain_s) as server:
        body = QUESTION | {"stream": True}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            began = time.monotonic()
            for _ in range(signals):
                server.process.send_signal(signal.SIGINT)
                time.sleep(0.3)
            code, errors = server.end()
            assert code == 0, errors
            assert 0.5 < time.monotonic() - began < 8


def test_settings_reach_the_server(tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(
        'traces = "TRACES"\n[limits]\nmax_samples = 4\n'
        '[presets.careful]\nstrategy = {type = "self_consistency", n = 3}\n'
        '[engines.small]\nengine = "scripted"\nmodel = "little"\n'.replace(
            "TRACES", str(tmp_path / "traces.sqlite")
        )
    )
    with serving("--config", str(config)) as server:
        url = f"{server.url}/v1/chat/completions"
        names = {each["id"] for each in httpx.get(f"{server.url}/v1/models").json()["data"]}
        assert {"scripted", "little", "careful"} <= names
        body = QUESTION | {"model": "careful", "strategy": {"n": 5}}
        assert httpx.post(url, json=body).json()["error"]["param"] == "strategy.n"
        reply = httpx.post(url, json=QUESTION | {"model": "careful"}).json()
        assert reply["scaling"]["usage"]["sample"]["calls"] == 3
    assert (tmp_path / "traces.sqlite").exists()


def test_a_taken_port_is_told_before_the_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("--engine", "vllm", "--model", "/no/model", "--port", str(port))
    expected = f"forethought: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert said.startswith(expected)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "vlm"), "command line: engine: Input should be 'vllm', 'http' or 'scripted'"),
        (("--engine", "http"), "engine 'http' needs `upstream`"),
        (("--config", "/no/file.toml"), "/no/file.toml: No such file or directory"),
        (("--host", "no.such.host.invalid"), "host: no.such.host.invalid: "),
        (("--port", "0", "--model", "/no/model"), "'/no/model' is no model"),
        (
            ("--port", "0", "--engine", "http", "--upstream", "http://127.0.0.1:9/v1"),
            "engine main (http://127.0.0.1:9/v1): the upstream cannot be reached",
        ),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(options: tuple[str, ...], said: str) -> None:
    errors = refused(*options)
    assert said in errors.splitlines()[-1]
    assert errors.count("forethought: ") == 1


def test_settings_are_checked_before_anything_starts(tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text('default_strategy = "x"\n[verifiers.a]\ntype = "logprob"\nwindow = 0\n')
    assert "verifiers.a.window: " in refused("--config", str(config))
