"""What the metering proxy counts: a run, and each of its calls while its answer goes by."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import from_json, to_json

from verifiers.types import JSONObject


@dataclass(slots=True)
class Run:
    """What was asked between two resets, and how long it took."""

    calls: int = 0
    samples: int = 0
    """Choices asked for by calls that were not refused."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    errors: int = 0
    """Calls that were refused, or whose upstream failed."""
    aborted: int = 0
    """Calls whose client hung up before the end."""
    exact: bool = True
    """Whether every answer came to its end and held its count."""
    open: int = 0
    wall_seconds: float = 0.0
    """From the first call's start to the last end."""
    busy_seconds: float = 0.0
    """Those of them in which a call was open."""
    _ticked: float = 0.0

    @contextmanager
    def call(self, asked: JSONObject) -> Iterator[Call]:
        """Count one call, from its request to the end of its answer."""
        self._tick()
        self.calls += 1
        self.open += 1
        call = Call(self, asked)
        try:
            yield call
        finally:
            call.book()
            self._tick()
            self.open -= 1

    def summary(self) -> dict[str, Any]:
        """Give all counts, as of now."""
        if self.open:
            self._tick()
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}

    def _tick(self) -> None:
        last, self._ticked = self._ticked, time.perf_counter()
        self.wall_seconds += self._ticked - last if self.calls else 0.0
        self.busy_seconds += self._ticked - last if self.open else 0.0


class Call:
    """One call: what the upstream says that it cost."""

    def __init__(self, run: Run, asked: JSONObject) -> None:
        self.status = 0
        """The answer's; 0 until the client gets it."""
        self.failed = False
        """The upstream cannot be reached, breaks off or sends an error in mid-stream."""
        self._run = run
        self._asked = asked
        options = asked.get("stream_options") or {}
        self._hides = bool(asked.get("stream")) and not options.get("include_usage")
        self._hiding = self._ended = self._booked = False
        self.rest = b""  # of a line, at a stream's end
        self._usage: JSONObject | None = None
        self._live: dict[int, JSONObject] = {}
        self._pieces = 0

    def body(self, content: bytes) -> bytes:
        """Give the request's body, which asks a stream for its count."""
        options = (self._asked.get("stream_options") or {}) | {"include_usage": True}
        return to_json({**self._asked, "stream_options": options}) if self._hides else content

    def whole(self, content: bytes) -> None:
        """Read an answer that came as one."""
        self._usage = json_object(content).get("usage")
        self._ended = True
        self.book()

    def feed(self, data: bytes) -> bytes:
        """Read a piece of a stream; return what the client is to get of it."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        return b"".join(line + b"\n" for line in lines if self._passes(line))

    def book(self) -> None:
        """Add the call to its run, once: at its answer's end, which a client may not wait for."""
        if self._booked:
            return
        self._booked, run = True, self._run
        refused = self.status >= 400
        run.errors += refused or self.failed
        run.aborted += not (self._ended or self.failed)
        if refused:
            return
        run.samples += self._asked.get("n") or 1
        run.exact &= self._ended and self._usage is not None
        seen = list(self._live.values()) if self._usage is None else [self._usage]
        run.prompt_tokens += max((each["prompt_tokens"] for each in seen), default=0)
        details = [each.get("prompt_tokens_details") or {} for each in seen]
        run.cached_tokens += max((each.get("cached_tokens") or 0 for each in details), default=0)
        tokens = sum(each.get("completion_tokens") or 0 for each in seen)
        run.completion_tokens += tokens if seen else self._pieces

    def _passes(self, line: bytes) -> bool:
        """Read a line; tell whether it is for the client, not of the chunk that we asked for."""
        if self._hiding and not line.strip():
            self._hiding = False
            return False
        if line.startswith(b"data:"):
            self._hiding = self._see(json_object(line[5:])) and self._hides
            if line[5:].strip() == b"[DONE]":
                self._ended = True
                self.book()
        return not self._hiding

    def _see(self, event: JSONObject) -> bool:
        """Note what an event counts; tell whether it is nothing but the whole answer's count."""
        self.failed |= "error" in event
        choices, usage = event.get("choices") or (), event.get("usage")
        for choice in choices:
            self._pieces += bool(choice.get("text") or (choice.get("delta") or {}).get("content"))
            if usage is not None:
                self._live[choice["index"]] = usage
        counts = usage is not None and not choices
        self._usage = usage if counts else self._usage
        return counts


def json_object(content: bytes) -> dict[str, Any]:
    """Read a JSON object; what is none has no fields."""
    try:
        value = from_json(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
