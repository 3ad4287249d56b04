"""Clients that never stop asking, while something is done to what they ask."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request ended, in the clock of `time.monotonic`."""

    began: float
    ended: float
    error: str | None
    """None: it was answered, whole."""


@dataclass(frozen=True, slots=True)
class Steady:
    """What was answered so far. Nothing is ever asked twice: every failure is seen."""

    url: str
    key: str
    model: str
    answers: list[Answer] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def failures(self, since: float) -> list[Answer]:
        """Return the requests begun since then that failed."""
        return [each for each in self.answers if each.error and each.began >= since]

    def count(self, since: float) -> int:
        """Count the requests begun since then that have ended."""
        return sum(each.began >= since for each in self.answers)

    async def ask_on(self, enough: asyncio.Event) -> None:
        """Ask one request after the other, every second one as a stream."""
        async with httpx.AsyncClient(timeout=_PATIENCE_S) as http:
            while not enough.is_set():
                number = next(self._numbers)
                began = time.monotonic()
                try:
                    error = await self._ask(http, number)
                except httpx.HTTPError as broken:
                    error = repr(broken)
                self.answers.append(Answer(began, time.monotonic(), error))

    async def _ask(self, http: httpx.AsyncClient, number: int) -> str | None:
        """Return what was wrong with an answer."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"Say the number {number}."}],
            "max_completion_tokens": 12,
            "stream": number % 2 == 1,
        }
        headers = {"Authorization": f"Bearer {self.key}", "Connection": "close"}
        answer = await http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)
        if answer.status_code != 200:
            return f"{answer.status_code}: {answer.text[:300]}"
        if body["stream"]:
            whole = answer.text.rstrip().endswith("data: [DONE]") and '"error"' not in answer.text
            return None if whole else f"a stream that ends with {answer.text[-300:]!r}"
        return None if answer.json()["choices"] else "no choice"


@asynccontextmanager
async def steadily(load: Steady, clients: int) -> AsyncIterator[None]:
    """Keep clients busy for as long as the block lasts, and wait for their last answers."""
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(load.ask_on(enough))
        try:
            yield
        finally:
            enough.set()
