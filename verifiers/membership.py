"""What a member of an ensemble is given, so that it works as if it were alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from verifiers.types import Candidate, Equivalence, Powers, Prompt


@dataclass(slots=True)
class WatchedPowers:
    """Implements `Powers`, and notices whether the budget paid for everything that was asked."""

    powers: Powers
    short: bool = False

    @property
    def equivalence(self) -> Equivalence:
        """The request's own."""
        return self.powers.equivalence

    async def ask(
        self,
        prompts: Sequence[Prompt],
        n: int = 1,
        *,
        engine: str | None = None,
        **sampling: Any,
    ) -> list[list[Candidate]]:
        """Ask, and see whether replies are missing."""
        replies = await self.powers.ask(prompts, n, engine=engine, **sampling)
        self.short = self.short or any(len(each) < n for each in replies)
        return replies

    async def tokenize(self, text: str, *, engine: str | None = None) -> tuple[int, ...]:
        """Ask the engine."""
        return await self.powers.tokenize(text, engine=engine)


class OwnMemory(MutableMapping[Hashable, float]):
    """One member's part of what is kept while the request lasts: others may use the same keys."""

    def __init__(self, whole: MutableMapping[Hashable, float], member: int) -> None:
        self._whole = whole
        self._member = member

    def __getitem__(self, key: Hashable) -> float:
        return self._whole[self._member, key]

    def __setitem__(self, key: Hashable, value: float) -> None:
        self._whole[self._member, key] = value

    def __delitem__(self, key: Hashable) -> None:
        del self._whole[self._member, key]

    def __iter__(self) -> Iterator[Hashable]:
        for place in self._whole:
            if isinstance(place, tuple) and len(place) == 2 and place[0] == self._member:
                yield place[1]

    def __len__(self) -> int:
        return sum(1 for _ in self)
