"""Limits: what may be used in a minute or a day, and what may be held at once.

By the store's own clock, so that replicas agree. A window begins with the first use in it, and ends
`window_s` later with everything that was used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Charge:
    """What is to be used of a limit."""

    name: str
    """Whose and which, such as `key:ab12:tokens:minute`."""
    amount: int
    limit: int
    window_s: float


@dataclass(frozen=True, slots=True)
class Level:
    """How a limit stands."""

    limit: int
    remaining: int
    """Never negative, though more may have been used than was foreseen."""
    reset_s: float
    """Until the window ends; 0 where none has begun."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is used of a limit, and for how long that counts."""

    used: int
    reset_s: float

    def level(self, limit: int) -> Level:
        """Hold it against a limit."""
        return Level(limit, max(0, limit - self.used), self.reset_s)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether charges were granted, all or none; a level for each, in their order."""

    granted: bool
    levels: tuple[Level, ...]
    refused: int | None = None
    """The place of the charge that did not fit: of several, the one that takes longest to reset."""


class Limits(Protocol):
    """Counts against limits, exactly, whoever counts. All raise StoreUnavailable."""

    async def charge(self, charges: Sequence[Charge]) -> Verdict:
        """Use all of it if everything fits, or nothing. An amount of 0 asks how it stands.

        No two charges have the same name, and no amount is negative.
        """

    async def correct(self, charges: Sequence[Charge]) -> None:
        """Add amounts, or give back negative ones, without asking; windows that ended stay so.

        For what turned out to cost more or less than was charged.
        """

    async def hold(self, name: str, holder: str, amount: int, limit: int, lease_s: float) -> bool:
        """Hold so many at once under the name; say whether they fit.

        What a holder that died held is free when its lease is over. Holding again, under the same
        holder, replaces the amount and renews the lease; refused, it leaves what was held before.
        """

    async def release(self, name: str, holder: str) -> None:
        """Let go of what a holder holds."""


def judge(charges: Sequence[Charge], standings: Sequence[Standing]) -> int | None:
    """Return the place of the charge that is refused, as in `Verdict`; None: all of them fit."""
    unfit = [
        place
        for place, (charge, standing) in enumerate(zip(charges, standings, strict=True))
        if charge.amount and standing.used + charge.amount > charge.limit
    ]
    return max(unfit, key=lambda place: standings[place].reset_s, default=None)
