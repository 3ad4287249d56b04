"""The engine in virtual time: what it says does not depend on waiting, what it takes does."""

from __future__ import annotations

import asyncio

import pytest

from loadtests.barrier import POOL, Latency, search
from loadtests.pools import Recorded, open_pool
from loadtests.simulated import Decoder, in_virtual_time, paragraphs
from strategies.dvts import DVTS
from strategies.mcts import MCTS

LATENCY: Latency = ((1, 1.0), (64, 1.0))


@pytest.fixture(scope="module")
def problems() -> tuple[Recorded, ...]:
    return open_pool(POOL).recorded[:2]


def test_virtual_time_passes_at_once() -> None:
    async def sleep() -> str:
        await asyncio.sleep(3_600)
        return "slept"

    assert in_virtual_time(sleep()) == ("slept", pytest.approx(3_600))


def test_a_step_takes_as_long_as_the_batch_is_wide() -> None:
    async def steps() -> None:
        decoder = Decoder(((1, 1.0), (3, 2.0), (5, 4.0)))
        for running in (1, 2, 4, 10):
            decoder.running = running
            await decoder.step()

    assert in_virtual_time(steps())[1] == pytest.approx(1 + 1.5 + 3 + 8)


def test_paragraphs_are_the_whole_sample(problems: tuple[Recorded, ...]) -> None:
    for sample in problems[0].samples:
        steps = paragraphs(sample)
        assert "".join(text for text, _ in steps) == sample.text
        assert sum(tokens for _, tokens in steps) == sample.completion_tokens


@pytest.mark.parametrize("strategy", [DVTS(n=16), MCTS()], ids=["dvts", "mcts"])
def test_a_barrier_costs_time(strategy: DVTS | MCTS, problems: tuple[Recorded, ...]) -> None:
    free, seconds = in_virtual_time(search(strategy, problems, LATENCY, barrier=False))
    held, longer = in_virtual_time(search(strategy, problems, LATENCY, barrier=True))
    assert seconds < longer
    if isinstance(strategy, DVTS):  # its subtrees do not look at each other
        assert free == held
