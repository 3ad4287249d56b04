"""What is logged: JSON a line, with the ids of the request, and nothing that was said."""

import json
import logging
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.build import VLLM_LOGGING
from server.logs import Access, JSONFormatter
from server.telemetry.context import RequestContext, within
from tests.server.serving import Served, serving

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "xylophone"
BODY = {
    "messages": [{"role": "user", "content": f"What is 6 times 7, said the {SECRET}?"}],
    "strategy": "self_consistency",
}
ACCESS = Access("POST", f"/v1/{SECRET}", "/v1/{strategy}/x", 200, 0.25, "single", 7, 42, "key-1")


def record(message: object, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("forethought.access", level, "file.py", 1, message, args, None)


def test_a_line_of_json() -> None:
    with within(RequestContext("request-1", ((b"traceparent", PARENT.encode()),))):
        line = json.loads(JSONFormatter().format(record(ACCESS)))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "forethought.access",
        "request_id": "request-1",
        "trace_id": PARENT.split("-")[1],
        "message": "request",
        "method": "POST",
        "route": "/v1/{strategy}/x",
        "status": 200,
        "seconds": 0.25,
        "strategy": "single",
        "prompt_tokens": 7,
        "completion_tokens": 42,
        "owner": "key-1",
    }


def test_a_line_of_text_is_short_and_has_one_line() -> None:
    access = Access("GET", "/a\nb" * 100, "unmatched", 404, 0.25, "", 0, 0, "")
    with within(RequestContext("request-1")):
        said = str(access)
    assert said.startswith(r"request-1 GET '/a\nb/a\nb")
    assert said.endswith(" 404 0.250 s")
    assert len(said) < 150
    assert "\n" not in said


def test_other_lines_and_exceptions_are_objects_too() -> None:
    line = json.loads(JSONFormatter().format(record("half of it: %d %%", 50)))
    assert line["message"] == "half of it: 50 %"
    assert "request_id" not in line
    try:
        raise ValueError("no\nsense")
    except ValueError:
        failed = record("it failed", level=logging.ERROR)
        failed.exc_info = sys.exc_info()
    text = JSONFormatter().format(failed)
    assert "\n" not in text
    assert json.loads(text)["exception"].endswith("ValueError: no\nsense")


def test_warnings_and_libraries_speak_the_same_format() -> None:
    program = (
        "import logging, warnings\n"
        "from server.logs import configure_logging\n"
        "configure_logging('info', 'json')\n"
        "warnings.warn('old', stacklevel=1)\n"
        "logging.getLogger('uvicorn.error').warning('strange')\n"
        "logging.getLogger('httpx').info('not told')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["logger"] for line in lines] == ["py.warnings", "uvicorn.error"]
    assert [line["level"] for line in lines] == ["warning", "warning"]
    assert "UserWarning: old" in lines[0]["message"]


def test_vllm_is_told_of_the_format() -> None:
    """As vLLM reads it, in the server and in the processes of its engine."""
    config = json.loads(VLLM_LOGGING.read_text())
    program = (
        f"import logging.config; logging.config.dictConfig({config!r})\n"
        "logging.getLogger('vllm.engine').warning('full')\n"
        "logging.getLogger('vllm.engine').info('not told')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    line = json.loads(done.stderr)
    assert (line["logger"], line["message"]) == ("vllm.engine", "full")


def lines_of(server: Served) -> list[dict[str, Any]]:
    """End the server; return what it logged."""
    server.process.terminate()
    code, errors = server.end()
    assert code == 0, errors
    return [json.loads(line) for line in errors.splitlines()]


@pytest.mark.slow
def test_what_a_server_logs(tmp_path: Path) -> None:
    with serving(
        log_format="json",
        store=str(tmp_path / "store.sqlite"),
        keys__mode="required",
        keys__bootstrap_file=str(tmp_path / "key"),
    ) as server:
        key = (tmp_path / "key").read_text().strip()
        headers = {"authorization": f"Bearer {key}", "x-request-id": "mine", "traceparent": PARENT}
        url = f"{server.url}/v1/chat/completions"
        answered = httpx.post(url, json=BODY, headers=headers)
        assert answered.status_code == 200, answered.text
        assert answered.headers["x-request-id"] == "mine"
        usage = answered.json()["usage"]
        refused = httpx.post(url, json=BODY | {"model": SECRET}, headers=headers)
        assert refused.status_code == 404
        wrong = {"authorization": f"Bearer {SECRET}", "x-request-id": "two words"}
        stranger = httpx.get(f"{server.url}/v1/{SECRET}?{SECRET}", headers=wrong)
        assert stranger.status_code == 401
        own = stranger.headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{16}", own), "one that could break a line is replaced"
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            connection.recv(1024)
        lines = lines_of(server)
    requests = [line for line in lines if line["message"] == "request"]
    mine, second, third = (each for each in requests if each["method"] in ("GET", "POST"))
    assert mine["request_id"] == "mine"
    assert mine["trace_id"] == PARENT.split("-")[1]
    assert mine["route"] == "/v1/chat/completions"
    assert (mine["status"], mine["strategy"]) == (200, "self_consistency")
    assert mine["completion_tokens"] == usage["completion_tokens"] > 0
    assert 0 < mine["seconds"] < 10
    assert mine["owner"], "the public id of the key"
    assert mine["owner"] not in ("", key)
    assert (second["status"], second["completion_tokens"]) == (404, 0)
    assert (third["status"], third["request_id"], third["route"]) == (401, own, "unmatched")
    errors = [line for line in lines if line["logger"] == "forethought.errors"]
    assert {line["request_id"] for line in errors} >= {"mine"}
    said = json.dumps(lines)
    assert SECRET not in said
    assert key not in said
    assert answered.json()["choices"][0]["message"]["content"] not in said
