"""What is asked, and when: the scenarios and their arrivals."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

BATCH_LINES = 20
_STREAM = {"stream": True, "stream_options": {"include_usage": True}}
_WEIGHTS: Mapping[str, Mapping[str, int]] = {
    "chat": {"chat": 1},
    "best_of_n": {"best_of_n": 1},
    "beam": {"beam": 1},
    "mixed": {"chat": 6, "best_of_n": 2, "beam": 1, "whole": 3},
}
SCENARIOS = tuple(_WEIGHTS)
"""`mixed` has batches beside it."""
_EXTRA: Mapping[str, Mapping[str, Any]] = {
    "chat": _STREAM,
    "best_of_n": {**_STREAM, "strategy": {"type": "best_of_n", "n": 8}},
    "beam": {"strategy": {"type": "beam", "n": 4, "width": 2}},
    "whole": {},
}


class Plan(BaseModel):
    """One run: a scenario, and the rate at which its requests arrive."""

    model_config = ConfigDict(frozen=True)

    name: str
    scenario: str
    url: str
    key: str | None = None
    model: str
    rate: float
    """Requests per second at the start."""
    last_rate: float
    """And at the end: the same, or a ramp."""
    seconds: float
    max_completion_tokens: int = 64
    batch_every_s: float = 5.0
    """In `mixed`: between two batches."""
    seed: int = 0
    patience_s: float = 60.0

    @property
    def batches(self) -> int:
        """How many batches are made on the way."""
        return math.ceil(self.seconds / self.batch_every_s) if self.scenario == "mixed" else 0

    def arrivals(self) -> Iterator[float]:
        """Give the seconds at which requests arrive: evenly, or ever closer on a ramp."""
        slope = (self.last_rate - self.rate) / self.seconds
        for number in range(int((self.rate + self.last_rate) / 2 * self.seconds + 1e-9)):
            if slope == 0:
                yield number / self.rate
            else:  # number = rate t + slope t²/2, solved for t
                root = self.rate**2 + 2 * slope * number
                yield (math.sqrt(max(0.0, root)) - self.rate) / slope

    def ask(self, number: int) -> Ask:
        """Return request `number`; every one has another prompt, so that no cache can answer."""
        draw = random.Random(f"{self.seed} {self.name} {number}")
        weights = _WEIGHTS[self.scenario]
        [kind] = draw.choices(list(weights), list(weights.values()))
        question = f"Question {self.seed}.{self.name}.{number}: what is 6 times {number}?"
        return Ask(kind, {**self._body(question), **_EXTRA[kind]})

    def batch(self, number: int) -> bytes:
        """Return the lines of a batch."""
        lines = []
        for place in range(BATCH_LINES):
            body = self._body(f"Line {place} of batch {self.seed}.{self.name}.{number}: 6 times 7?")
            line = {"custom_id": f"{number}-{place}", "method": "POST", "body": body}
            lines.append(line | {"url": "/v1/chat/completions"})
        return b"\n".join(_json(line) for line in lines)

    def _body(self, question: str) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "max_completion_tokens": self.max_completion_tokens,
        }


class Ask(NamedTuple):
    """A request: its kind and its body."""

    kind: str
    body: Mapping[str, Any]

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        return _json(self.body)


class Row(BaseModel):
    """How one request ended. Times are in seconds of the run."""

    kind: str
    due: float
    """When it was to be sent: waiting to be sent counts, as for a client that was waiting."""
    sent: float
    first: float | None = None
    """When the first piece of the answer came; null: it came as one."""
    ended: float
    error: str | None = None
    """The error's code, or what broke; null: it was answered."""
    tokens: int = 0
    """Generated for it, by the answer's own count."""


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
