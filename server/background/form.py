"""What an endpoint makes of background requests: how they are polled, followed and answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic_core import from_json

from server.background.work import Work
from server.convert import Order
from server.streaming import DONE, Frames
from strategies.base import Outcome
from verifiers.types import JSONObject


class Form(Protocol):
    """One endpoint's way; it holds no state."""

    @property
    def kind(self) -> str:
        """The kind of its records."""

    def beginning(self, work: Work, past: Sequence[JSONObject]) -> list[JSONObject]:
        """Return the events that a turn begins with; `past` are those of earlier turns."""

    def writer(self, order: Order, work: Work, past: Sequence[JSONObject]) -> Frames:
        """Return who writes the events of a turn, as frames with JSON."""

    def answer(self, order: Order, outcome: Outcome, work: Work) -> JSONObject:
        """Return what is kept as the answer."""

    def shown(self, work: Work) -> dict[str, Any]:
        """Return what a poll is told."""

    def last(self, work: Work) -> JSONObject:
        """Return the event that tells how it ended."""

    def frame(self, number: int, event: JSONObject) -> bytes:
        """Write an event for a client; `number` is its place, from 1."""

    @property
    def end(self) -> bytes:
        """What comes after the last event."""


def payloads(frames: bytes) -> list[JSONObject]:
    """Read the JSON objects of a writer's frames."""
    lines = frames.removesuffix(DONE).split(b"\n")
    return [from_json(line[6:]) for line in lines if line.startswith(b"data: ")]
