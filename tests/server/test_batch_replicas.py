"""Several processes and one batch: shared, handed on, and gone on with after kill -9."""

import re
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.server.serving import Served, serving
from tests.server.test_batches import create, ended, line, rows
from tests.store.serving import RedisServer

pytestmark = pytest.mark.slow

LINES = 40
SETTINGS: dict[str, Any] = {
    "log_level": "error",  # nobody reads the pipe, which is soon full of polls
    "delay_s": "0.005",
    "admission__slots": "4",
    "batches__poll_s": "0.05",
    "batches__lease_s": "2",
}


def client_of(served: Served) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def jobs(served: Served, event: str) -> int:
    """Count what a process did with lines, by its own metrics."""
    text = httpx.get(f"{served.url}/metrics").text
    found = re.search(
        rf'^forethought_jobs_total{{event="{event}",queue="batches"}} (\d+)', text, re.M
    )
    return 0 if found is None else int(found[1])


def answered(client: OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    assert counts is not None
    return counts.completed


def until_answered(client: OpenAI, batch_id: str, count: int) -> None:
    end = time.monotonic() + 20
    while answered(client, batch_id) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


def check(client: OpenAI, batch_id: str) -> None:
    """See that every line was answered once."""
    batch = ended(client, client.batches.retrieve(batch_id), 60)
    assert batch.status == "completed"
    assert batch.error_file_id is None
    assert rows(client, batch.output_file_id).keys() == {str(each) for each in range(LINES)}


def test_two_replicas_share_a_batch_and_one_hands_its_lines_on(redis_server: RedisServer) -> None:
    settings = {**SETTINGS, "store": redis_server.url}
    with serving(**settings) as one, serving(**settings) as two:
        client = client_of(one)
        made = create(client, [line(str(number)) for number in range(LINES)])
        until_answered(client, made.id, 10)
        claimed = jobs(two, "claimed")
        assert min(jobs(one, "claimed"), claimed) > 0
        two.process.send_signal(signal.SIGTERM)
        code, _ = two.end()
        assert code == 0
        check(client, made.id)
        assert jobs(one, "claimed") < LINES


def test_roles(redis_server: RedisServer) -> None:
    settings = {**SETTINGS, "store": redis_server.url}
    with serving("--role", "server", **settings) as front:
        client = client_of(front)
        made = create(client, [line(str(number)) for number in range(LINES)])
        time.sleep(1)
        assert client.batches.retrieve(made.id).status == "validating"
        with serving("--role", "worker", **settings) as worker:
            check(client, made.id)
            assert jobs(front, "claimed") == 0
            assert jobs(worker, "finished") == LINES
            assert httpx.get(f"{worker.url}/readyz").is_success
            assert httpx.get(f"{worker.url}/v1/models").status_code == 404
        assert client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "Hi"}]
        ).choices


def test_a_file_goes_on_after_kill_9(tmp_path: Path) -> None:
    settings = {**SETTINGS, "store": f"sqlite:{tmp_path / 'store.sqlite'}"}
    with serving(**settings) as served:
        client = client_of(served)
        made = create(client, [line(str(number)) for number in range(LINES)])
        until_answered(client, made.id, 10)
        served.process.kill()
        served.process.wait()
    with serving(**settings) as served:
        check(client_of(served), made.id)
