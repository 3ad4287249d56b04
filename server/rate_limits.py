"""How a key's quotas stand, in the headers that OpenAI's clients read."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from server.identity import Identity
from server.store.base import StoreUnavailable
from server.store.limits import Charge, Level, Limits

MINUTE_S, DAY_S = 60.0, 86_400.0

What: TypeAlias = Literal["requests", "tokens"]

_log = logging.getLogger("forethought.quotas")


class Window(NamedTuple):
    """What may be used in a minute or a day."""

    what: What
    owner: str
    limit: int
    seconds: float

    def charge(self, amount: int) -> Charge:
        """Say what is to be used of it."""
        name = f"key:{self.owner}:{self.what}:{self.seconds:.0f}"
        return Charge(name, amount, self.limit, self.seconds)

    @property
    def words(self) -> str:
        """Name it, as in `200 tokens a minute`."""
        return f"{self.limit} {self.what} a {self._span}"

    @property
    def name(self) -> str:
        """Name it as a key's quota has it, as in `tokens_per_minute`."""
        return f"{self.what}_per_{self._span}"

    @property
    def _span(self) -> str:
        return "minute" if self.seconds == MINUTE_S else "day"


def windows(identity: Identity) -> tuple[Window, ...]:
    """Return the windows that a key's quotas have."""
    quota, owner = identity.quota, identity.owner
    limits: tuple[tuple[What, int | None, float], ...] = (
        ("requests", quota.requests_per_minute, MINUTE_S),
        ("requests", quota.requests_per_day, DAY_S),
        ("tokens", quota.tokens_per_minute, MINUTE_S),
        ("tokens", quota.tokens_per_day, DAY_S),
    )
    return tuple(
        Window(what, owner, limit, seconds) for what, limit, seconds in limits if limit is not None
    )


async def rate_limit_headers(identity: Identity, limits: Limits) -> list[tuple[bytes, bytes]]:
    """Ask how the quotas stand, and write OpenAI's headers; none where the store is away.

    Of a minute's limit and a day's, the one with less left is told.
    """
    known = windows(identity)
    if not known:
        return []
    try:
        verdict = await limits.charge([window.charge(0) for window in known])
    except StoreUnavailable as error:
        _log.warning("an answer without rate-limit headers: %s", error.message)
        return []
    levels: defaultdict[What, list[Level]] = defaultdict(list)
    for window, level in zip(known, verdict.levels, strict=True):
        levels[window.what].append(level)
    return [header for what, some in levels.items() for header in _headers(what, some)]


def _headers(what: What, levels: Sequence[Level]) -> list[tuple[bytes, bytes]]:
    nearest = min(levels, key=lambda level: (level.remaining, -level.reset_s))
    told = {
        "limit": str(nearest.limit),
        "remaining": str(nearest.remaining),
        "reset": duration(nearest.reset_s),
    }
    return [(f"x-ratelimit-{key}-{what}".encode(), value.encode()) for key, value in told.items()]


def duration(seconds: float) -> str:
    """Write a time as OpenAI does, up to whole seconds: `59s`, `6m0s`, `23h59m59s`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h" * bool(hours) + f"{minutes}m" * bool(hours or minutes) + f"{rest}s"
