"""Streams: events in their order, which readers follow and come back to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from verifiers.types import JSONObject


class Item(NamedTuple):
    """An event of a stream."""

    number: int
    """Its place: 1, 2, 3, …"""
    value: JSONObject


class Streams(Protocol):
    """Appends and follows events. All raise StoreUnavailable."""

    async def append(
        self, stream: str, values: Sequence[JSONObject], *, expires_s: float | None = None
    ) -> int:
        """Add events at the end, all at once; return the number of the last.

        `expires_s` is for the whole stream, from now on; without it, what was said before holds.
        """

    async def read(
        self, stream: str, *, after: int = 0, limit: int = 1_000, wait_s: float = 0.0
    ) -> list[Item]:
        """Read what follows the event `after`; where there is nothing, wait so long for some.

        A stream that is unknown is empty. Other replicas' appends end the wait as well.
        """

    async def delete(self, stream: str) -> bool:
        """Delete a stream; say whether there was one."""
