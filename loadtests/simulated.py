"""An engine with the latencies of a recorded one and no model, in a time that passes at once.

Steps are paragraphs of recorded samples. A turn of the engine advances every running sample by one
token and takes as long as the batch is wide; a search in front of it takes as many virtual seconds
as it would take real ones, whatever else this machine does.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from loadtests.pools import Sample
from loadtests.replay_cut import Limits, cut
from verifiers.types import Capabilities, Chunk, Continuation, Prompt, Sampling, Usage

Result = TypeVar("Result")

ON_TWO_CORES = ((1, 1 / 12), (4, 4 / 45), (8, 8 / 59), (16, 16 / 84), (32, 32 / 121))
"""Seconds of a decoding step by the samples in the batch: Qwen2.5-Coder-0.5B, bf16, measured."""
WITH_ROOM = ((1, 0.02), (256, 0.02))
"""An accelerator with room for more: a step takes as long, however wide the batch."""
CAPABILITIES = Capabilities(32_768, Continuation.TEXT, counts_live=True, together=True)


def paragraphs(sample: Sample) -> list[tuple[str, int]]:
    """Return the sample's steps: text up to and with a blank line, and its tokens."""
    steps, text, tokens = [], "", 0
    for piece in cut(sample, Limits()).tokens:
        text, tokens = text + piece, tokens + 1
        if "\n\n" in text[-len(piece) - 1 :]:
            steps.append((text, tokens))
            text, tokens = "", 0
    return [*steps, (text, tokens)] if tokens else steps


class Decoder:
    """The machine: every step advances all running samples of all engines by one token."""

    def __init__(self, seconds: Sequence[tuple[int, float]]) -> None:
        """Take the seconds of a step by the samples in the batch, two or more points of a line."""
        self.running = 0
        self._seconds = seconds
        self._turn: asyncio.Future[None] | None = None

    async def step(self) -> None:
        """Wait for the current step to end; whoever comes first starts it."""
        if self._turn is None:
            loop = asyncio.get_running_loop()
            self._turn = loop.create_future()
            # In the same moment others may join the batch: its width is that after all have come.
            loop.call_soon(lambda: loop.call_later(self._step_seconds(), self._end))
        await asyncio.shield(self._turn)

    def _step_seconds(self) -> float:
        for (low, fast), (high, slow) in pairwise(self._seconds):
            if self.running <= high:
                return fast + (slow - fast) * (self.running - low) / (high - low)
        widest, slowest = self._seconds[-1]
        return slowest * self.running / widest

    def _end(self) -> None:
        turn, self._turn = self._turn, None
        assert turn is not None
        turn.set_result(None)


class SimulatedEngine:
    """Goes on with a reply by a paragraph of some recorded sample of the same depth.

    Which one depends on the reply, the seed and the sample's place alone, never on time. With
    `barrier`, no step ends before all that run here have ended: as a request that waits for its
    branches.
    """

    def __init__(
        self, samples: Sequence[Sample], decoder: Decoder, *, barrier: bool = False
    ) -> None:
        self.model, self.capabilities = "simulated", CAPABILITIES
        self.tokens = 0
        self._steps = [paragraphs(sample) for sample in samples]
        self._decoder = decoder
        self._barrier = barrier
        self._here = 0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def statistics(self) -> Mapping[str, float]:
        """None of its own."""
        return {}

    async def count_tokens(self, prompt: Prompt) -> int:  # noqa: ARG002
        """Say that it does not know."""
        return 0

    async def tokenize(self, text: str) -> tuple[int, ...]:  # noqa: ARG002
        """Return nothing: it has no ids."""
        return ()

    async def aclose(self) -> None:
        """Nothing to release."""

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        """Say n next paragraphs, each at the pace of the batch."""
        said = prompt.reply.text if prompt.reply else ""
        one = bool(sampling.stop)
        live = [
            self._next(f"{sampling.seed} {sampling.first + i} of {said}", said.count("\n\n"), one)
            for i in range(n)
        ]
        order = sorted(range(n), key=lambda index: live[index][1])
        self._here += n
        self._decoder.running += n
        made, left = 0, n
        try:
            for index in order:
                text, tokens, last = live[index]
                while made < tokens:
                    await self._decoder.step()
                    made += 1
                left -= 1
                self._decoder.running -= 1
                self._here -= 1
                if self._barrier:
                    await self._all_ended(last_of_group=not left)
                self.tokens += tokens
                yield Chunk(
                    index,
                    text,
                    usage=Usage(completion_tokens=tokens),
                    finish_reason="stop",
                    stop_reason=None if last else "\n\n",
                )
        finally:
            self._here -= left
            self._decoder.running -= left

    def _next(self, place: str, depth: int, one: bool) -> tuple[str, int, bool]:
        """Choose what follows: the paragraph, its tokens, and whether the reply ends with it."""
        draw = random.Random(place)
        steps = draw.choice([each for each in self._steps if len(each) > depth] or self._steps)
        if not one or depth + 1 >= len(steps):
            rest = steps[depth:] or steps[-1:]
            return "".join(text for text, _ in rest), sum(tokens for _, tokens in rest), True
        return *steps[depth], False

    async def _all_ended(self, *, last_of_group: bool) -> None:
        """Hold the end of a group's last sample back until nothing runs here any more."""
        if not last_of_group:
            return
        if not self._here:
            for future in self._waiting:
                future.set_result(None)
            self._waiting = []
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


class _Instant(selectors.DefaultSelector):
    """A selector that moves a clock on in place of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


def in_virtual_time(work: Coroutine[Any, Any, Result]) -> tuple[Result, float]:
    """Run a coroutine whose every wait passes at once; return its result and virtual seconds."""
    selector = _Instant()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(work)
        return result, selector.now
