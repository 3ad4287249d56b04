"""Keys in the store: made, listed, revoked. A revoked one stays, so that nothing brings it back."""

from __future__ import annotations

import time
from typing import NamedTuple

from server.identity import Quota, Scope
from server.keys.key import Key, digest_of, draw_key, public_id
from server.store.records import Record, Records

KIND = "key"
_PAGE = 100


class UnknownKey(LookupError):
    """No key has that id."""


class Created(NamedTuple):
    """A new key, and the only sight of its secret."""

    key: Key
    secret: str


async def create_key(
    records: Records,
    name: str,
    scopes: frozenset[Scope],
    quota: Quota | None = None,
    expires_s: float | None = None,
) -> Created:
    """Make a key that lives for `expires_s` seconds, or until it is revoked."""
    secret = draw_key()
    key = make_key(secret, name, scopes, quota, expires_s)
    await records.add(KIND, key.id, key.model_dump(mode="json"))
    return Created(key, secret)


def make_key(
    secret: str,
    name: str,
    scopes: frozenset[Scope],
    quota: Quota | None = None,
    expires_s: float | None = None,
) -> Key:
    """Describe a key, for it to be kept. Raises ValueError where the secret is none of ours."""
    key_id, now = public_id(secret), time.time()
    if key_id is None:
        raise ValueError("it is no key of the form ft-ID-SECRET")
    return Key(
        id=key_id,
        name=name,
        digest=digest_of(secret),
        scopes=scopes,
        quota=quota or Quota(),
        created_at=now,
        expires_at=None if expires_s is None else now + expires_s,
    )


def read_key(record: Record) -> Key:
    """Read what the store keeps."""
    return Key.model_validate(record.value)


async def list_keys(records: Records) -> list[Key]:
    """List all keys, the newest first, with those that have ended."""
    found: list[Key] = []
    while page := await records.page(KIND, after=found[-1].id if found else None, limit=_PAGE):
        found += map(read_key, page)
    return found


async def revoke_key(records: Records, key_id: str) -> Key:
    """End a key; one that was revoked before stays as it is. Raises UnknownKey."""
    while (record := await records.get(KIND, key_id)) is not None:
        key = read_key(record)
        if key.revoked_at is not None:
            return key
        revoked = key.model_copy(update={"revoked_at": time.time()})
        if await records.replace(KIND, record, revoked.model_dump(mode="json")):
            return revoked
    raise UnknownKey(key_id)
