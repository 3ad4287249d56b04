"""API keys: `ft-ID-SECRET`. The id is public; of the whole, only a hash is kept.

The secret is 256 random bits. Nobody can go through these, so that SHA-256 protects them as well as
a slow hash would, and costs a request nothing.
"""

from __future__ import annotations

import re
import secrets
import time
from hashlib import blake2b, sha256
from hmac import compare_digest
from typing import Literal

from pydantic import BaseModel, ConfigDict

from server.identity import Identity, Quota, Scope

_KEY = re.compile(r"ft-([0-9a-f]{16})-[A-Za-z0-9_-]{43}")
_SECRET = re.compile(r"(ft-[0-9a-f]{16})-[A-Za-z0-9_-]+")


class Key(BaseModel):
    """What is kept of a key."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    digest: str
    scopes: frozenset[Scope]
    quota: Quota = Quota()
    created_at: float
    """Unix time, as are the others."""
    expires_at: float | None = None
    revoked_at: float | None = None

    @property
    def state(self) -> Literal["active", "expired", "revoked"]:
        """How it stands now."""
        if self.revoked_at is not None:
            return "revoked"
        expired = self.expires_at is not None and self.expires_at <= time.time()
        return "expired" if expired else "active"

    def is_opened_by(self, presented: str) -> bool:
        """Whether this is the key, in a time that tells nothing of how near a guess came."""
        return compare_digest(self.digest, digest_of(presented))

    def identity(self, *, salted: bool) -> Identity:
        """Say who its holder is; `salted`: the prefix caches are not shared with other keys."""
        salt = blake2b(self.digest.encode(), digest_size=16, person=b"cache salt").hexdigest()
        return Identity(self.id, self.scopes, self.quota, salt if salted else None)


def draw_key() -> str:
    """Make a new key."""
    return f"ft-{secrets.token_hex(8)}-{secrets.token_urlsafe(32)}"


def public_id(presented: str) -> str | None:
    """Read a key's id; None where it is none of ours."""
    found = _KEY.fullmatch(presented)
    return None if found is None else found[1]


def digest_of(key: str) -> str:
    """Return what is kept in place of a key."""
    return sha256(key.encode()).hexdigest()


def masked(text: str) -> str:
    """Take the secrets of keys out of a text, and leave their ids."""
    return _SECRET.sub(r"\1-…", text) if "ft-" in text else text
