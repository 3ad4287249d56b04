"""What happened, recorded once: progress, metrics, traces and replay all read these events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from verifiers.types import Candidate, JSONObject


class EventKind(StrEnum):
    """The closed list of what a session tells."""

    SAMPLED = "sampled"
    """A candidate came to rest: it ended, reached its stop, or was cut."""
    FAILED = "failed"
    """A sample was lost to an engine error; the request goes on."""
    SCORED = "scored"
    """A verifier judged a candidate."""
    PRUNED = "pruned"
    """A candidate goes no further: it was stopped, or the search goes on without it."""
    VOTED = "voted"
    """Answers were compared and counted."""
    CHOSEN = "chosen"
    """A strategy chose the inner one that goes on, None: it stops; beside it, by what."""
    FINISHED = "finished"
    """The strategy returned."""


@dataclass(frozen=True, slots=True)
class Event:
    """One entry: its number, seconds since the request was received, and JSON-able data."""

    index: int
    seconds: float
    kind: EventKind
    data: JSONObject
    began: float | None = None
    """When what it tells of began, in the same seconds; None: it took no time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Choice `index` of the answer, as far as it is written; it only ever grows."""

    index: int
    candidate: Candidate


Listener: TypeAlias = Callable[[Event | Answer], None]


class EventLog:
    """The events of one request, in order, and those who follow them live."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start an empty log; `clock` tells the seconds since the request was received."""
        self.events: list[Event] = []
        self._clock = clock
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with every event and every piece of the answer from now on."""
        self._listeners.append(listener)

    @property
    def followed(self) -> bool:
        """Whether anybody listens, so that an answer is worth streaming."""
        return bool(self._listeners)

    def emit(self, kind: EventKind, *, began: float | None = None, **data: Any) -> None:
        """Record an event; what it tells of may have `began` earlier."""
        start = None if began is None else round(began, 6)
        event = Event(len(self.events), round(self._clock(), 6), kind, data, start)
        self.events.append(event)
        for listener in self._listeners:
            listener(event)

    def answer(self, index: int, candidate: Candidate) -> None:
        """Pass a piece of the answer on; it is not recorded, its end is."""
        for listener in self._listeners:
            listener(Answer(index, candidate))
