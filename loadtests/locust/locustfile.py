"""Asks what a plan says, when it says so: `locust -f locustfile.py`, run by `loadtests.locust.run`.

`LOAD_PLAN` is a file with the plan, `LOAD_ROWS` the file for the rows. Locust's own users ask again
when they are answered: a slow server is then asked less, and looks better than it is. So here one
user lets requests loose at their times.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import gevent
from gevent.pool import Pool
from geventhttpclient import HTTPClient
from locust import User, task

from loadtests.locust.plan import Ask, Plan, Row

_CONNECTIONS = 4096
_POLL_S = 0.5
_BOUNDARY = "forethought-load"


class Arriving(User):
    """Everybody who asks."""

    fixed_count = 1

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._plan = Plan.model_validate_json(Path(os.environ["LOAD_PLAN"]).read_text())
        self._rows: list[Row] = []
        headers = {"Content-Type": "application/json"}
        if self._plan.key is not None:
            headers["Authorization"] = f"Bearer {self._plan.key}"
        self._http = HTTPClient.from_url(
            self._plan.url,
            concurrency=_CONNECTIONS,
            headers=headers,
            connection_timeout=self._plan.patience_s,
            network_timeout=self._plan.patience_s,
        )
        self._began = 0.0

    @task
    def arrive(self) -> None:
        """Let every request loose at its time, wait for the last ones, and write all down."""
        plan, running = self._plan, Pool()
        self._began = time.monotonic()
        for number in range(plan.batches):
            running.add(gevent.spawn_later(number * plan.batch_every_s, self._batch, number))
        for number, due in enumerate(plan.arrivals()):
            gevent.sleep(max(0.0, due - self._now()))
            running.spawn(self._ask, plan.ask(number), due)
        running.join(timeout=plan.patience_s)
        for left in list(running):
            left.kill(block=False)
        lines = "\n".join(row.model_dump_json() for row in self._rows)
        Path(os.environ["LOAD_ROWS"]).write_text(lines + "\n")
        self._http.close()
        self.environment.runner.quit()

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _ask(self, ask: Ask, due: float) -> None:
        row = Row(kind=ask.kind, due=due, sent=self._now(), ended=0.0)
        try:
            with gevent.Timeout(self._plan.patience_s):
                self._answer(ask, row)
        except gevent.Timeout:
            row.error = "no answer"
        except (OSError, ValueError) as error:  # geventhttpclient's errors are such
            row.error = type(error).__name__
        self._end(row)

    def _answer(self, ask: Ask, row: Row) -> None:
        response = self._http.post("/v1/chat/completions", body=ask.content)
        if response.status_code != 200:
            row.error = _code(bytes(response.read()), response.status_code)
        elif ask.body.get("stream"):
            self._stream(response, row)
        else:
            row.tokens = json.loads(bytes(response.read()))["usage"]["completion_tokens"]

    def _stream(self, response: Any, row: Row) -> None:
        ended = False
        while line := bytes(response.readline(b"\n")):
            if line == b"data: [DONE]\n":
                ended = True
            elif line.startswith(b"data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    row.error = chunk["error"]["code"] or chunk["error"]["type"]
                if chunk.get("usage"):
                    row.tokens = chunk["usage"]["completion_tokens"]
                if row.first is None and any(
                    each["delta"].get("content") for each in chunk.get("choices", ())
                ):
                    row.first = self._now()
        if not ended:
            row.error = row.error or "a stream without [DONE]"

    def _batch(self, number: int) -> None:
        """Upload the lines, make a batch of them, and look until it has ended."""
        row = Row(kind="batch", due=number * self._plan.batch_every_s, sent=self._now(), ended=0.0)
        try:
            with gevent.Timeout(self._plan.patience_s):
                self._work_batch(number, row)
        except gevent.Timeout:
            row.error = "no answer"
        except (OSError, ValueError) as error:
            row.error = type(error).__name__
        self._end(row)

    def _work_batch(self, number: int, row: Row) -> None:
        form = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
        file = self._json("POST", "/v1/files", _form(self._plan.batch(number)), form)
        asked = {
            "input_file_id": file["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        batch = self._json("POST", "/v1/batches", json.dumps(asked).encode())
        while batch["status"] not in ("completed", "failed", "expired", "cancelled"):
            gevent.sleep(_POLL_S)
            batch = self._json("GET", f"/v1/batches/{batch['id']}")
        if batch["status"] != "completed" or batch["request_counts"]["failed"]:
            row.error = f"a batch {batch['status']}"
        row.tokens = (batch.get("usage") or {}).get("output_tokens", 0)

    def _json(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        response = self._http.request(method, path, body, headers or {})
        content = bytes(response.read())
        if response.status_code != 200:
            raise ValueError(_code(content, response.status_code))
        answer: dict[str, Any] = json.loads(content)
        return answer

    def _end(self, row: Row) -> None:
        row.ended = self._now()
        self._rows.append(row)
        self.environment.events.request.fire(
            request_type="POST",
            name=row.kind,
            response_time=1000 * (row.ended - row.due),
            response_length=0,
            exception=None if row.error is None else RuntimeError(row.error),
            context={},
        )


def _code(content: bytes, status: int) -> str:
    error = json.loads(content)["error"]
    return f"{status} {error['code'] or error['type']}"


def _form(lines: bytes) -> bytes:
    parts = [
        (b'name="purpose"', b"batch"),
        (b'name="file"; filename="load.jsonl"\r\nContent-Type: application/jsonl', lines),
    ]
    bound = f"--{_BOUNDARY}".encode()
    body = b"".join(
        bound + b"\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + content + b"\r\n"
        for head, content in parts
    )
    return body + bound + b"--\r\n"
