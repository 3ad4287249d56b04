"""nginx before two replicas: streams come as they are made, and a dead replica loses nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from loadtests.compose import ROOT
from loadtests.servers import free_port
from tests.server.serving import Served, serving

CONFIGURATION = ROOT / "docker" / "nginx" / "forethought.conf"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def adapted(folder: Path, port: int, replicas: list[str]) -> Path:
    """Write the configuration for this machine: fixed addresses in place of Docker's names."""
    servers = "".join(f"server {each} max_fails=1 fail_timeout=3s;" for each in replicas)
    text, named = re.subn(
        r"server forethought:8000 resolve [^;]*;", servers, CONFIGURATION.read_text()
    )
    assert named == 1
    text = text.replace("/tmp/", f"{folder}/").replace("/dev/stdout", f"{folder}/access.log")
    text = text.replace("/dev/stderr", f"{folder}/error.log").replace(
        "listen 8000", f"listen {port}"
    )
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


@needs_nginx
def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    path = adapted(tmp_path, free_port(), ["127.0.0.1:1"])
    done = subprocess.run(
        [str(NGINX), "-t", "-c", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[Served]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(serving("--engine", "scripted", delay_s="0.05")) for _ in range(2)
        ]


@pytest.fixture(scope="module")
def balanced(
    replicas: list[Served], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Start nginx before the replicas; yield its address and its access log."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    path = adapted(folder, port, [each.url.removeprefix("http://") for each in replicas])
    with subprocess.Popen([str(NGINX), "-c", str(path), "-g", "daemon off;"]) as process:
        url = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                httpx.get(f"{url}/healthz")
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        yield url, folder / "access.log"
        process.terminate()


def body(**fields: object) -> dict[str, object]:
    question = {"role": "user", "content": "What is 2 + 3? Put the answer in \\boxed{}."}
    return {"model": "scripted", "messages": [question], **fields}


@needs_nginx
@pytest.mark.slow
def test_tokens_come_as_they_are_made(balanced: tuple[str, Path]) -> None:
    url, _ = balanced
    moments = []
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body(stream=True)) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data:"):
                moments.append(time.monotonic())
    assert len(moments) > 5
    assert moments[-1] - moments[1] > 0.05 * (len(moments) - 4) / 2


@needs_nginx
@pytest.mark.slow
def test_metrics_are_not_to_be_had_from_outside(balanced: tuple[str, Path]) -> None:
    assert httpx.get(f"{balanced[0]}/metrics").status_code == 404


@needs_nginx
@pytest.mark.slow
def test_the_log_has_the_request_and_no_query(balanced: tuple[str, Path]) -> None:
    url, log = balanced
    httpx.get(f"{url}/v1/models?key=secret", headers={"X-Request-Id": "mine"})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[-1]["request_id"] == "mine"
    assert lines[-1]["path"] == "/v1/models"
    assert "secret" not in log.read_text()


@needs_nginx
@pytest.mark.slow
def test_a_dead_replica_loses_no_new_request(
    balanced: tuple[str, Path], replicas: list[Served]
) -> None:
    url, log = balanced
    first, _ = replicas
    ask = f"{url}/v1/chat/completions"
    asked = log.read_text().count("/v1/chat/completions")
    for _ in range(6):
        assert httpx.post(ask, json=body(max_completion_tokens=2)).status_code == 200
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    served = {each["replica"] for each in seen if each["path"] == "/v1/chat/completions"}
    assert len(served) == 2, f"one replica has it all ({asked} before): {served}"
    first.process.kill()
    first.process.wait()
    for _ in range(6):
        answer = httpx.post(ask, json=body(max_completion_tokens=2))
        assert answer.status_code == 200, answer.text
