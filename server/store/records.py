"""Records: named JSON values of a kind, such as a batch, an API key or a cached answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from verifiers.types import JSONObject


@dataclass(frozen=True, slots=True)
class Record:
    """A value as it was read."""

    id: str
    value: JSONObject
    version: int
    """Grows with every change: `replace` is refused where it is not the newest."""
    owner: str
    created_at: float
    """Unix time."""


class Records(Protocol):
    """Reads and writes single records; each call is atomic. All raise StoreUnavailable."""

    async def add(
        self,
        kind: str,
        record_id: str,
        value: JSONObject,
        *,
        owner: str = "",
        expires_s: float | None = None,
    ) -> bool:
        """Write a record where none of that id lives; say whether it was written.

        Without `expires_s` it lives until it is deleted.
        """

    async def put(
        self,
        kind: str,
        record_id: str,
        value: JSONObject,
        *,
        owner: str = "",
        expires_s: float | None = None,
    ) -> None:
        """Write a record, over an older one if there is one; its `created_at` and place stay.

        Without `expires_s` it lives until it is deleted, whatever was said of the older one.
        """

    async def replace(
        self, kind: str, record: Record, value: JSONObject, *, expires_s: float | None = None
    ) -> bool:
        """Give a record that has not changed since it was read another value; say whether so.

        Its owner stays, and without `expires_s` its time does.
        """

    async def get(self, kind: str, record_id: str) -> Record | None:
        """Read a record; None where there is none, or its time is over."""

    async def delete(self, kind: str, record_id: str) -> bool:
        """Delete a record; say whether there was one."""

    async def page(
        self, kind: str, *, owner: str | None = None, after: str | None = None, limit: int = 100
    ) -> list[Record]:
        """List records, the newest first: those behind `after`, and of one owner where it is told.

        An `after` that is gone gives nothing.
        """
