"""A batch of numbered questions, and its way through the API of a server that is away at times."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

_SAMPLES = 3
"""Of every tenth line, which votes."""
_LOOK_S = 0.5
_PATIENCE_S = 900.0
_ENDED = ("completed", "failed", "expired", "cancelled")


def question(number: int) -> str:
    """Return what line `number` asks."""
    return f"line {number}: what is {number} plus {number}?"


def samples(number: int) -> int:
    """Return how many samples line `number` needs."""
    return _SAMPLES if number % 10 == 0 else 1


def input_file(lines: int) -> bytes:
    """Write the batch's input; every tenth line names a strategy."""
    rows = []
    for number in range(lines):
        body: dict[str, Any] = {"messages": [{"role": "user", "content": question(number)}]}
        if samples(number) > 1:
            body["strategy"] = {"type": "self_consistency", "n": samples(number)}
        rows.append(
            {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
        )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class Api:
    """The batch through the server's own API, which is away from time to time."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def begin(self, content: bytes) -> str:
        """Upload the input and create the batch; return its id."""
        sent = await self._client.post(
            "/v1/files", data={"purpose": "batch"}, files={"file": ("lines.jsonl", content)}
        )
        sent.raise_for_status()
        asked = {
            "input_file_id": sent.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        created = await self._client.post("/v1/batches", json=asked)
        created.raise_for_status()
        return str(created.json()["id"])

    async def ended(self, batch_id: str) -> dict[str, Any]:
        """Wait for the batch's end, however often nobody answers."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                batch = await self._get(f"/v1/batches/{batch_id}")
                if batch is not None and batch.json()["status"] in _ENDED:
                    return dict(batch.json())
                await asyncio.sleep(_LOOK_S)

    async def rows(self, file_id: str | None) -> list[dict[str, Any]]:
        """Read a file's lines; of none, none."""
        if file_id is None:
            return []
        while (content := await self._get(f"/v1/files/{file_id}/content")) is None:
            await asyncio.sleep(_LOOK_S)
        return [json.loads(line) for line in content.text.splitlines()]

    async def _get(self, path: str) -> httpx.Response | None:
        try:
            answer = await self._client.get(path)
        except httpx.TransportError:
            return None
        return answer if answer.is_success else None
