"""Whether `compute_optimal` chose live what it chooses on the same samples by replay."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from loadtests.offline import Player, PoolEngine
from strategies.budget import Budget
from strategies.compute_optimal import ComputeOptimal
from strategies.events import EventKind
from verifiers.types import Chunk, Equivalence, JSONObject, Prompt, Sampling, TokenLogprob, Usage

QUESTION = Prompt(({"role": "user", "content": "?"},))
"""A choice looks at samples alone."""


class TraceEngine(PoolEngine):
    """Gives the samples of a trace, whole, in the order of their ids; then it fails."""

    def __init__(self, events: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(())
        sampled = [each["data"] for each in events if each["kind"] == EventKind.SAMPLED]
        sampled.sort(key=lambda data: [int(place) for place in data["id"].split(".")])
        self._samples = iter(sampled)

    async def generate(
        self,
        prompt: Prompt,  # noqa: ARG002
        sampling: Sampling,  # noqa: ARG002
        n: int = 1,
    ) -> AsyncGenerator[Chunk, None]:
        """Give the next n samples; fewer where the live run stopped earlier than this one."""
        for index in range(n):
            data = next(self._samples, None)
            yield Chunk(index, finish_reason="stop") if data is None else _whole(index, data)


def _whole(index: int, data: JSONObject) -> Chunk:
    """Return a sample as one piece; one log-probability, their mean, stands for all."""
    return Chunk(
        index,
        data["text"],
        logprobs=(TokenLogprob("", data["mean_logprob"]),),
        finish_reason=data["finish_reason"] or "length",
        usage=Usage(completion_tokens=data["tokens"]),
    )


def chosen_of(events: Sequence[Mapping[str, Any]]) -> list[JSONObject]:
    """Return what a trace says was chosen, and by what."""
    return [each["data"] for each in events if each["kind"] == EventKind.CHOSEN]


async def choose_again(
    strategy: ComputeOptimal,
    events: Sequence[Mapping[str, Any]],
    budget: Budget,
    equivalence: Equivalence,
) -> list[JSONObject]:
    """Run the strategy on the samples of a trace; return what it chooses."""
    player = Player(equivalence, seeded=False)
    _, request = await player.ask(strategy, TraceEngine(events), QUESTION, budget)
    return [each.data for each in request.events.events if each.kind is EventKind.CHOSEN]
