"""A deployment seen from outside: its client, waiting for it, saying what it has shown."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
from rich.console import Console

_CHAT = "/v1/chat/completions"
_console = Console()


class Client:
    """Asks the server, with its key."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=300
        )
        self.model: str = self._http.get("/v1/models").raise_for_status().json()["data"][0]["id"]

    def chat(self, expected: int = 200, **fields: Any) -> httpx.Response:
        """Ask a chat request; it must be answered with the status that is expected."""
        question = {"role": "user", "content": "What is 2 + 3? Put the answer in \\boxed{}."}
        body = {"model": self.model, "messages": [question], "max_completion_tokens": 32}
        return self.post(_CHAT, body | fields, expected)

    def post(self, path: str, body: dict[str, Any], expected: int = 200) -> httpx.Response:
        """Post JSON, with that status expected."""
        answer = self._http.post(path, json=body)
        assert answer.status_code == expected, f"{path}: {answer.status_code}, {answer.text}"
        return answer

    def batch(self, count: int) -> None:
        """Have some lines answered."""
        question = {"role": "user", "content": "What is 6 times 7?"}
        body = {"messages": [question], "max_completion_tokens": 8}
        lines = [
            {"custom_id": str(place), "method": "POST", "url": _CHAT, "body": body}
            for place in range(count)
        ]
        content = "\n".join(map(json.dumps, lines))
        sent = self._http.post(
            "/v1/files", data={"purpose": "batch"}, files={"file": ("lines.jsonl", content)}
        )
        made = self.post(
            "/v1/batches",
            {
                "input_file_id": sent.raise_for_status().json()["id"],
                "endpoint": _CHAT,
                "completion_window": "1h",
            },
        ).json()
        wait_for(lambda: self._status(made["id"]) == "completed", 120, "the batch is not done")

    def _status(self, batch: str) -> str:
        return str(self._http.get(f"/v1/batches/{batch}").raise_for_status().json()["status"])


def wait_until_ready(url: str, seconds: float = 900) -> None:
    """Wait until a server is ready. Raises TimeoutError."""

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz", timeout=30).is_success
        except httpx.TransportError:
            return False

    wait_for(ready, seconds, f"{url} is not ready")


def wait_for(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Ask each second until it is so. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(otherwise)
        time.sleep(1)


def tell(what: str, value: object) -> None:
    """Say what has been shown."""
    _console.print(f"[green]shown[/] {what}: {value}")
