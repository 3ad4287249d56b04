"""Who asks: what is known of a client once its key is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge
from starlette.requests import HTTPConnection

from server.settings import MIN_TOKENS

Scope: TypeAlias = Literal["inference", "batch", "metrics", "admin"]
SCOPES: frozenset[Scope] = frozenset(("inference", "batch", "metrics", "admin"))
PLACE = "identity"
"""Where the middleware leaves it in the ASGI scope."""

Amount: TypeAlias = Annotated[int, Ge(1)] | None
Tokens: TypeAlias = Annotated[int, Ge(MIN_TOKENS)] | None


@dataclass(frozen=True, slots=True)
class Quota:
    """What a key may use; None: as much as everyone may.

    Tokens are what answers tell as `usage.total_tokens`: the prompt, and all that was generated.
    """

    requests_per_minute: Amount = None
    requests_per_day: Amount = None
    tokens_per_minute: Tokens = None
    tokens_per_day: Tokens = None
    samples_at_once: Amount = None
    """Of all its requests together, on all replicas."""
    max_samples: Amount = None
    """That one request may draw: how much it may amplify."""
    max_tokens: Tokens = None
    """In the budget of one request."""

    @property
    def budget_tokens(self) -> int | None:
        """The largest budget that could ever be paid; None: any."""
        caps = (self.max_tokens, self.tokens_per_minute, self.tokens_per_day)
        return min((cap for cap in caps if cap is not None), default=None)


@dataclass(frozen=True, slots=True)
class Identity:
    """A client: the owner of what it uploads, and what it may do."""

    owner: str = ""
    """The public id of its key; empty where the server asks for none."""
    scopes: frozenset[Scope] = SCOPES
    quota: Quota = Quota()
    cache_salt: str | None = None
    """Keeps its prompts apart from others' in the engines' prefix caches; None: it shares."""


ANYONE = Identity()
"""Where no key is asked for, everyone may do everything, and owns everything together."""


def identity_of(http: HTTPConnection) -> Identity:
    """Return who asks; behind the middleware that checked it."""
    found: Identity = http.scope.get(PLACE, ANYONE)
    return found
