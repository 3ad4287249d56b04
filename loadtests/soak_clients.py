"""The clients of a soak: they ask all sorts of things, hang up at random, and note how it ended."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import httpx

CHAT = "/v1/chat/completions"
DEADLINE_S = 8.0
PATIENCE_S = 30.0
_ERROR_KEYS = {"message", "type", "param", "code"}
_OURS = frozenset({400, 404, 408, 413, 415, 429, 502, 503, 504})
_MOST_KEPT = 20

Ending: TypeAlias = Literal["answered", "refused", "failed", "left", "foreign"]
"""`refused`: what was asked is wrong; `failed`: the upstream's bad day, told by us; `left`: the
client hung up; `foreign`: anything that a client must never see."""


class Asked(NamedTuple):
    """A request, and what a client does with it."""

    kind: str
    body: Mapping[str, Any]
    path: str = CHAT
    leaves_after: float | None = None
    """Seconds until the client hangs up."""


@dataclass(slots=True)
class Notes:
    """What the clients saw."""

    endings: Counter[tuple[str, Ending]] = field(default_factory=Counter)
    seconds: list[tuple[float, float]] = field(default_factory=list)
    """When each answer ended, and how long it took."""
    claims: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """By mark: the tokens that the answer says it cost, and whether it says that is exact.

    Only of runs that nothing stopped: what was stopped, the upstream may not have noticed in time.
    """
    foreign: list[str] = field(default_factory=list)
    """The first of what must never be seen."""

    def note(self, asked: Asked, ending: Ending, seconds: float, why: str = "") -> None:
        """Count an ending."""
        self.endings[asked.kind, ending] += 1
        self.seconds.append((time.monotonic(), seconds))
        if ending == "foreign" and len(self.foreign) < _MOST_KEPT:
            self.foreign.append(f"{asked.kind}: {why}")


class Strange(Exception):
    """An answer that is none of ours."""


def draw(seed: int, number: int) -> Asked:
    """Return request `number` of the soak with this seed."""
    chance = random.Random(f"{seed} {number}")
    question = f"soak-{number}: what is {chance.randrange(100)} times {chance.randrange(100)}?"
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": question}],
        "budget": {"deadline_s": DEADLINE_S},
        "max_completion_tokens": chance.choice((8, 32, 64)),
        "seed": number,
    }
    leaves = chance.uniform(0.0, 0.6) if chance.random() < 0.15 else None
    kinds = {
        "single": 4,
        "stream": 3,
        "best_of_n": 3,
        "self_consistency": 3,
        "beam": 1,
        "early_stopping": 1,
        "hurried": 1,
        "wrong": 1,
    }
    [kind] = chance.choices(list(kinds), list(kinds.values()))
    match kind:
        case "stream":
            strategy = chance.choice(("single", "self_consistency", "best_of_n"))
            body |= {"stream": True, "strategy": strategy}
            body["stream_options"] = {"include_usage": True, "include_progress": True}
        case "best_of_n" | "self_consistency" | "early_stopping":
            body["strategy"] = {"type": kind, "n": chance.choice((2, 4, 8))}
        case "beam":
            body["strategy"] = {"type": "beam", "n": 4, "width": 2}
        case "hurried":
            body |= {"strategy": "self_consistency", "budget": {"deadline_s": 0.15}}
        case "wrong":
            body |= chance.choice(({"n": 0}, {"strategy": "nope"}, {"messages": []}, {"x": 1}))
    return Asked(kind, body, leaves_after=leaves)


class Clients:
    """A number of clients, each of which asks one thing after the other."""

    def __init__(self, url: str, seed: int, notes: Notes) -> None:
        self._url, self._seed, self._notes = url, seed, notes
        self._next = 0

    @property
    def asked(self) -> int:
        """How many requests were begun."""
        return self._next

    async def run(self, count: int, seconds: float) -> None:
        """Keep so many clients busy for so long, and wait for their last answers."""
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._client(until))

    async def _client(self, until: float) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=PATIENCE_S) as http:
            while time.monotonic() < until:
                number, self._next = self._next, self._next + 1
                await self._ask(http, draw(self._seed, number), f"soak-{number}")

    async def _ask(self, http: httpx.AsyncClient, asked: Asked, mark: str) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(asked.leaves_after):
                ending = await self._answer(http, asked, mark)
        except TimeoutError:
            self._notes.note(asked, "left", time.monotonic() - began)
        except (httpx.HTTPError, Strange) as error:
            told = f"{mark}: {type(error).__name__} {error}"
            self._notes.note(asked, "foreign", time.monotonic() - began, told)
        else:
            self._notes.note(asked, ending, time.monotonic() - began)

    async def _answer(self, http: httpx.AsyncClient, asked: Asked, mark: str) -> Ending:
        if asked.body.get("stream"):
            async with http.stream("POST", asked.path, json=asked.body) as response:
                if response.status_code != 200:
                    await response.aread()
                    return _error(response)
                return await self._stream(response, mark)
        response = await http.post(asked.path, json=asked.body)
        if response.status_code != 200:
            return _error(response)
        answer = response.json()
        if not answer["choices"]:
            raise Strange("no choices")
        self._claim(mark, answer["usage"], answer["scaling"])
        return "answered"

    async def _stream(self, response: httpx.Response, mark: str) -> Ending:
        lines = [line[6:] async for line in response.aiter_lines() if line.startswith("data: ")]
        if not lines or lines[-1] != "[DONE]":
            raise Strange("a stream without [DONE]")
        chunks = [json.loads(line) for line in lines[:-1]]
        if "error" in chunks[-1]:
            _check(chunks[-1])
            return "failed"
        usage = next(each["usage"] for each in chunks if each.get("usage"))
        told = [each["scaling"] for each in chunks if "usage" in each.get("scaling", {})]
        self._claim(mark, usage, told[-1])
        return "answered"

    def _claim(self, mark: str, usage: Mapping[str, Any], scaling: Mapping[str, Any]) -> None:
        if scaling["stopped_by"] is None:
            exact = all(stage["exact"] for stage in scaling["usage"].values())
            self._notes.claims[mark] = usage["completion_tokens"], exact


def _error(response: httpx.Response) -> Ending:
    if response.status_code not in _OURS:
        raise Strange(f"status {response.status_code}: {response.text[:200]}")
    _check(response.json())
    return "refused" if response.status_code < 429 else "failed"


def _check(body: Mapping[str, Any]) -> None:
    """Hold an error against OpenAI's form."""
    if body.keys() != {"error"} or body["error"].keys() != _ERROR_KEYS:
        raise Strange(f"an error of another form: {str(body)[:200]}")
