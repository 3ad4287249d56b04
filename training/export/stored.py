"""Read the traces that replicas share: those of a store, such as Redis, by its address."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from server.store.base import StoreError, StoreUnavailable, open_store
from server.traces.base import Filter
from server.traces.shared import SharedTraces
from training.data import DataError
from training.export.questions import Question
from training.export.traces import question_of

_PAGE = 64


class StoredTraces:
    """The traces of a store, read while servers go on writing.

    Raises:
        DataError: there is no store, or it does not answer.
    """

    def __init__(self, address: str) -> None:
        self.name = shown_address(address)
        self._address = address
        self._ids = asyncio.run(self._list())
        self.count = len(self._ids)

    def questions(
        self, verifier: str | None, advance: Callable[[], object], dropped: Counter[str]
    ) -> Iterator[Question]:
        """Yield a question for each trace that can be one; the arguments are `TraceFile`'s."""
        for start in range(0, self.count, _PAGE):
            for trace in asyncio.run(self._load(self._ids[start : start + _PAGE])):
                told = [(event["kind"], event["data"]) for event in trace["events"]]
                try:
                    yield question_of(trace["id"], trace, told, verifier, dropped)
                except DataError as error:
                    dropped[f"traces: {error}"] += 1
                advance()

    async def _list(self) -> list[str]:
        """Return the ids of all, the oldest first."""
        ids: list[str] = []
        async with self._reading() as traces:
            while page := await traces.page(Filter(), after=ids[-1] if ids else None):
                ids += [each.id for each in page]
        return ids[::-1]

    async def _load(self, ids: list[str]) -> list[dict[str, Any]]:
        """Read some; those that were deleted meanwhile are left out."""
        async with self._reading() as traces:
            read = [await traces.load(each) for each in ids]
        return [each for each in read if each is not None]

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[SharedTraces]:
        try:
            async with aclosing(await open_store(self._address)) as store:
                yield SharedTraces(store)
        except (StoreError, StoreUnavailable) as error:
            raise DataError(f"{self.name}: cannot be read as traces: {error}") from error


def is_address(place: str) -> bool:
    """Whether this is where a store is, and no file of traces."""
    return place.partition(":")[0] in ("redis", "rediss", "unix", "sqlite")


def shown_address(address: str) -> str:
    """Return an address without the password in it."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
