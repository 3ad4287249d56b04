"""Several processes and one background request: taken over, handed back, cancelled from afar."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.server.serving import Served, serving
from tests.store.serving import RedisServer

pytestmark = pytest.mark.slow

QUESTION = [{"role": "user", "content": "What is 6 times 7?"}]
LONG = 10
"""A seed whose reply has more than a hundred tokens."""
SETTINGS: dict[str, Any] = {"delay_s": "0.03", "background__lease_s": "2"}
IDLE = {**SETTINGS, "background__at_once": "0"}


def submit(served: Served, **body: Any) -> str:
    told = httpx.post(
        f"{served.url}/v1/chat/completions",
        json={"messages": QUESTION, "background": True, "seed": LONG, **body},
    )
    assert told.status_code == 200, told.text
    return str(told.json()["id"])


def show(served: Served, work_id: str) -> dict[str, Any]:
    told: dict[str, Any] = httpx.get(f"{served.url}/v1/background/{work_id}").json()
    return told


def until(condition: Callable[[], bool], seconds: float = 20.0) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.02)
    return time.monotonic() - start


def ended(served: Served, work_id: str) -> dict[str, Any]:
    until(lambda: show(served, work_id)["status"] not in ("queued", "in_progress"))
    return show(served, work_id)


def begun(served: Served, work_id: str) -> bool:
    """Wait until something of the answer was written."""
    path = f"{served.url}/v1/background/{work_id}/events"
    with httpx.stream("GET", path, timeout=30) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:]).get("choices", ())
                if any(each["delta"].get("content") for each in choices):
                    return True
    return False


def samples(served: Served) -> float:
    """Count tokens that this process generated."""
    text = httpx.get(f"{served.url}/metrics").text
    [line] = [
        line
        for line in text.splitlines()
        if line.startswith("forethought_engine_") and "generated_tokens_total" in line
    ]
    return float(line.split()[-1])


def test_a_killed_replicas_work_is_taken_over(redis_server: RedisServer) -> None:
    redis_server.empty()
    settings: dict[str, Any] = {"store": redis_server.url}
    with serving(**IDLE, **settings) as front, serving(**SETTINGS, **settings) as first:
        work_id = submit(front)
        assert begun(front, work_id)
        assert samples(front) == 0
        first.process.kill()
        with serving(**SETTINGS, **settings) as second:
            told = ended(front, work_id)
            assert (told["status"], told["turn"]) == ("completed", 2)
            assert samples(second) == told["completion"]["usage"]["completion_tokens"]
            whole = httpx.post(
                f"{second.url}/v1/chat/completions",
                json={"messages": QUESTION, "seed": LONG},
                timeout=30,
            ).json()
            assert told["completion"]["choices"] == whole["choices"]


def test_the_restarted_server_takes_up_its_work(tmp_path: Path) -> None:
    settings = {**SETTINGS, "store": f"sqlite:{tmp_path / 'store.sqlite'}"}
    with serving(**settings) as served:
        work_id = submit(served)
        assert begun(served, work_id)
        served.process.kill()
        served.process.wait()
    with serving(**settings) as served:
        told = ended(served, work_id)
        assert (told["status"], told["turn"]) == ("completed", 2)


def test_the_end_of_a_server_hands_its_work_back(redis_server: RedisServer) -> None:
    redis_server.empty()
    settings: dict[str, Any] = {"store": redis_server.url, "drain_s": "0"}
    long = {**SETTINGS, "background__lease_s": "600"}
    with serving(**IDLE, **settings) as front, serving(**long, **settings) as first:
        work_id = submit(front)
        assert begun(front, work_id)
        first.process.send_signal(signal.SIGTERM)
        code, _ = first.end()
        assert code == 0
        assert show(front, work_id)["status"] == "queued"
        with serving(**long, **settings):
            told = ended(front, work_id)
            assert (told["status"], told["turn"]) == ("completed", 2)


def test_it_is_cancelled_from_another_replica(redis_server: RedisServer) -> None:
    redis_server.empty()
    settings: dict[str, Any] = {"store": redis_server.url}
    with serving(**IDLE, **settings) as front, serving(**SETTINGS, **settings) as worker:
        work_id = submit(front, strategy={"type": "self_consistency", "n": 8})
        until(lambda: samples(worker) > 8)
        told = httpx.post(f"{front.url}/v1/background/{work_id}/cancel").json()
        assert told["status"] == "cancelled"
        time.sleep(1)
        made = samples(worker)
        time.sleep(0.5)
        assert samples(worker) == made
        assert show(worker, work_id)["status"] == "cancelled"


def test_a_response_is_followed_from_another_replica_while_its_worker_is_killed(
    redis_server: RedisServer,
) -> None:
    redis_server.empty()
    settings: dict[str, Any] = {"store": redis_server.url}
    with (
        serving(**IDLE, **settings) as front,
        serving(**SETTINGS, **settings) as first,
        OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as client,
    ):
        made = client.responses.create(
            model="scripted", input="What is 6 times 7?", background=True, extra_body={"seed": LONG}
        )
        with client.responses.stream(response_id=made.id) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    break
            first.process.kill()
            with serving(**SETTINGS, **settings):
                final = stream.get_final_response()
        assert final.output_text == client.responses.retrieve(made.id).output_text
        assert final.output_text.endswith("}")
