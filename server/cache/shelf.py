"""One key's place in the store: the outcome, who makes it, and whether somebody waits for it.

record  `answer`          the outcome
hold    `answer:KEY`      held by who makes it; its lease ends with its holder
record  `answer-awaited`  somebody elsewhere waits, for as long as it renews this
stream  `answer:KEY`      has an event when a making ends, however it does: it wakes who waits
"""

from __future__ import annotations

import secrets
import time
from typing import Any, NamedTuple

from server.cache.outcome import Origin, read
from server.store.base import Store
from strategies.base import Outcome
from verifiers.types import JSONObject

LEASE_S = 5.0
"""For so long after its last sign of life whoever makes an outcome is waited for."""
_ANSWER, _AWAITED = "answer", "answer-awaited"
_NEWS_S = 60.0
"""For so long news stays: whoever waits has read it long before."""


class Found(NamedTuple):
    """What stood on the shelf."""

    outcome: Outcome
    origin: Origin


class Shelf:
    """A key's place in the store. All raise StoreUnavailable."""

    def __init__(self, store: Store, key: str, owner: str) -> None:
        self._store, self._key, self._owner = store, key, owner
        self._name = f"{_ANSWER}:{key}"
        self._holder = secrets.token_hex(8)
        self._claimed = False

    async def find(self, ttl_s: float) -> Found | None:
        """Read the outcome, if it is not older than that."""
        record = await self._store.records.get(_ANSWER, self._key)
        if record is None or record.value["made_at"] + ttl_s < time.time():
            return None
        told = record.value
        return Found(read(told["outcome"]), Origin(**told["origin"]))

    async def put(self, outcome: JSONObject, origin: Origin, ttl_s: float) -> None:
        """Keep a written outcome, over an older one."""
        told: dict[str, Any] = {
            "made_at": time.time(),
            "outcome": outcome,
            "origin": {
                "id": origin.id,
                "prompt_tokens": origin.prompt_tokens,
                "seconds": origin.seconds,
                "usage": origin.usage,
            },
        }
        await self._store.records.put(_ANSWER, self._key, told, owner=self._owner, expires_s=ttl_s)

    async def claim(self) -> bool:
        """Become, or stay, the one who makes it; say whether nobody else does."""
        self._claimed = True  # though this be cancelled, it may be so
        self._claimed = await self._store.limits.hold(self._name, self._holder, 1, 1, LEASE_S)
        return self._claimed

    async def release(self) -> None:
        """Make it no longer, if it was claimed, and wake who waits."""
        if not self._claimed:
            return
        self._claimed = False
        await self._store.limits.release(self._name, self._holder)
        await self._store.streams.append(self._name, [{}], expires_s=_NEWS_S)

    async def wait(self, seen: int, seconds: float) -> int:
        """Let the maker know that it is waited for, and wait for news behind the event `seen`.

        Returns the last event, which may be old news.
        """
        await self._store.records.put(_AWAITED, self._key, {}, expires_s=LEASE_S)
        items = await self._store.streams.read(self._name, after=seen, wait_s=seconds)
        return items[-1].number if items else seen

    async def awaited(self) -> bool:
        """Whether somebody in another process waits, or did some seconds ago."""
        return await self._store.records.get(_AWAITED, self._key) is not None
