"""An engine that says given texts one after the other, and keeps the prompts it was asked."""

from __future__ import annotations

from collections.abc import Iterator

from server.engines.scripted import ScriptedEngine
from tests.strategies.harness import Bench
from verifiers.types import JSONObject, Message, Prompt, Sampling

LOOKUP: JSONObject = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object"}},
}
CALL: JSONObject = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look_up", "arguments": '{"x": 1}'},
}


class Dialogue:
    """The replies to come, and what was asked for each so far."""

    def __init__(self, *replies: str | Message) -> None:
        self.prompts: list[Prompt] = []
        self.temperatures: list[float | None] = []
        self._replies: Iterator[str | Message] = iter(replies)
        self.engine = ScriptedEngine(self._next)

    def _next(self, prompt: Prompt, sampling: Sampling, _index: int) -> str | Message:
        self.prompts.append(prompt)
        self.temperatures.append(sampling.temperature)
        return next(self._replies)

    def asked(self, call: int) -> list[tuple[str, object]]:
        """Return the turns of the prompt of one call: role and content."""
        messages = self.prompts[call].messages
        return [(message["role"], message["content"]) for message in messages]


def text(bench: Bench) -> list[str]:
    """Return what the request came to, in the order of its making."""
    return [each.text for each in bench.request.produced.values()]
