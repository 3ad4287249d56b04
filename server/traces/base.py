"""What a trace is listed and kept by, and the protocol of what keeps traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from strategies.events import Event, EventKind
from verifiers.types import JSONObject


class TraceError(Exception):
    """The file cannot be opened, or is not a store of traces of this version."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What traces are listed and chosen by."""

    id: str
    owner: str
    """Whose request it was."""
    saved_at: float
    """Unix time."""
    bytes: int
    """What its texts take."""
    kind: str
    """The endpoint: `chat`, `verify`, …"""
    model: str | None
    strategy: str | None
    """None where none was run."""
    agreement: float | None
    """None where nothing was voted on."""
    tokens: int
    """Generated, by policy and verifiers together."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which traces are asked for; None: any."""

    owner: str | None = None
    strategy: str | None = None
    min_agreement: float | None = None
    max_agreement: float | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None

    def takes(self, trace: Summary) -> bool:
        """Whether it is one of them; one without agreement has none that a limit could take."""
        return (
            self.owner in (None, trace.owner)
            and self.strategy in (None, trace.strategy)
            and _within(trace.agreement, self.min_agreement, self.max_agreement)
            and _within(trace.tokens, self.min_tokens, self.max_tokens)
        )


class Traces(Protocol):
    """Keeps traces. Where they are in the store, all raise StoreUnavailable."""

    async def save(
        self, trace_id: str, header: JSONObject, events: Sequence[Event], owner: str = ""
    ) -> None:
        """Add a trace; once this returns, it outlives the process."""

    async def load(self, trace_id: str, owner: str | None = None) -> dict[str, Any] | None:
        """Read a trace: its header's fields, `id`, `saved_at` and `events`.

        None where there is none, or it is not the owner's; without one, it is anybody's.
        """

    async def delete(self, trace_id: str, owner: str | None = None) -> bool:
        """Delete a trace; say whether there was one. `owner` is as for `load`."""

    async def page(
        self, wanted: Filter, *, after: str | None = None, limit: int = 100
    ) -> list[Summary]:
        """List traces, the newest first: those behind `after`, of which nothing is behind a gap."""

    async def sweep(self, keep_s: float, max_bytes: int) -> int:
        """Delete what is older, then the oldest until the rest is no larger; return how many."""

    async def aclose(self) -> None:
        """Let go of them; nothing is lost."""


def agreement_of(events: Sequence[Event]) -> float | None:
    """Return what the run said of it at its end; None where it had none, or did not end."""
    said = [event.data["agreement"] for event in events if event.kind is EventKind.FINISHED]
    return said[-1] if said else None


def _within(value: float | None, least: float | None, most: float | None) -> bool:
    if least is None and most is None:
        return True
    if value is None:
        return False
    return (least is None or value >= least) and (most is None or value <= most)
