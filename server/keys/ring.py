"""Whose key it is that a client presents: looked up in the store, and remembered for seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from server.identity import ANYONE, Identity
from server.keys.errors import Unauthenticated
from server.keys.key import Key, public_id
from server.keys.registry import KIND, read_key
from server.settings import KeySettings
from server.store.base import StoreUnavailable
from server.store.records import Records

if TYPE_CHECKING:
    from server.state import State  # which holds a KeyRing


@dataclass(frozen=True, slots=True)
class _Known:
    """A key as it was read; the moments are of `time.monotonic()`."""

    key: Key
    identity: Identity
    read_at: float
    asked_at: float
    """Later than `read_at` where the store did not answer."""


class KeyRing:
    """Knows keys. What the store says of one is remembered for `cache_s` seconds.

    While the store is away, a key that was known counts for `outage_s` seconds. Only keys that
    exist are remembered: whoever tries others costs a look-up each, and no memory.
    """

    def __init__(self, records: Records, settings: KeySettings) -> None:
        self._records = records
        self._settings = settings
        self._known: dict[str, _Known] = {}

    async def identify(self, presented: str) -> Identity:
        """Say who presents a key.

        Raises:
            Unauthenticated: it is none, wrong, expired or revoked.
            StoreUnavailable: the store is away, and the key was not seen lately.
        """
        key_id = public_id(presented)
        known = None if key_id is None else await self._find(key_id)
        if known is None or not known.key.is_opened_by(presented):
            raise Unauthenticated("this API key is not known here")
        return _alive(known)

    async def identity(self, owner: str) -> Identity:
        """Say who holds a key, for work that is done later. Raises as `identify`."""
        known = await self._find(owner)
        if known is None:
            raise Unauthenticated("this API key is not known any more")
        return _alive(known)

    async def _find(self, key_id: str) -> _Known | None:
        known, now = self._known.get(key_id), time.monotonic()
        if known is not None and now - known.asked_at < self._settings.cache_s:
            return known
        try:
            record = await self._records.get(KIND, key_id)
        except StoreUnavailable:
            if known is None or now - known.read_at > self._settings.outage_s:
                raise
            self._known[key_id] = replace(known, asked_at=now)
            return known
        if record is None:
            self._known.pop(key_id, None)
            return None
        key = read_key(record)
        identity = key.identity(salted=self._settings.cache_salt)
        self._known[key_id] = found = _Known(key, identity, now, now)
        return found


async def identity_of_owner(owner: str, state: State) -> Identity:
    """Say who owns what was left to be done later: batches, background requests.

    A worker that nobody can send requests to asks this too, and so do servers without keys.

    Raises:
        Unauthenticated: the key has been revoked, or has expired.
        StoreUnavailable: nobody can tell now.
    """
    return await state.keys.identity(owner) if owner else ANYONE


def _alive(known: _Known) -> Identity:
    if known.key.state != "active":
        raise Unauthenticated(f"this API key is {known.key.state}")
    return known.identity
