"""Scoring beside sampling changes nobody's log-probabilities: vLLM with SmolLM2-135M.

In float32, where neighbours in a batch move a log-probability by rounding only: in bfloat16 any
neighbour moves it by up to 0.2.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from tests.engines.test_vllm import Sample, collect_garbage, draw, start
from verifiers.labels import ALTERNATIVES
from verifiers.turns import question_after
from verifiers.types import Candidate, Engine, Prompt, Task, TokenLogprob

pytestmark = [
    pytest.mark.model,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's and torch's own
]

__all__ = ["collect_garbage"]

TOKENS = 40
NOISE = 1e-3
"""Nats."""
SUBJECTS = ("a fox and a river", "an old lighthouse", "two brothers", "rain in a city")
PROMPTS = [
    Prompt(({"role": "user", "content": f"Tell me a story about {subject}."},))
    for subject in SUBJECTS
]

Neighbour = Callable[[], Awaitable[object]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    engine = await start(max_model_len=1024, dtype="float32")
    yield engine
    await engine.aclose()


async def stories(engine: Engine) -> list[Sample]:
    """Tell all stories at the same time, greedily."""
    async with asyncio.TaskGroup() as group:
        told = [
            group.create_task(draw(engine, prompt, temperature=0.0, max_tokens=TOKENS, logprobs=5))
            for prompt in PROMPTS
        ]
    return [sample for each in told for sample in each.result()]


@asynccontextmanager
async def beside(ask: Neighbour, wide: int = 4) -> AsyncIterator[list[object]]:
    """Keep `wide` neighbours asking for as long as the block runs; yield what they get."""
    answers: list[object] = []

    async def keep_asking() -> None:
        while True:
            answers.append(await ask())

    tasks = [asyncio.create_task(keep_asking()) for _ in range(wide)]
    try:
        yield answers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def question(place: int, told: Sequence[Sample]) -> Prompt:
    """Ask after the beginning of a story as a generative verifier does; each time another one."""
    which, cut = place % len(PROMPTS), 8 + place % (TOKENS - 8)
    so_far = Candidate("0", told[which].text, told[which].token_ids[:cut])
    return question_after(Task(PROMPTS[which]), so_far, "Is it a good story? Answer Yes or No.")


async def score(engine: Engine, asked: Prompt) -> Sample:
    (sample,) = await draw(engine, asked, temperature=0.0, max_tokens=1, logprobs=ALTERNATIVES)
    return sample


def farthest(left: Sequence[TokenLogprob], right: Sequence[TokenLogprob]) -> float:
    """Return the largest difference of a log-probability, of alternatives in the order of rank."""
    pairs = [(one.logprob, other.logprob) for one, other in zip(left, right, strict=True)]
    for one, other in zip(left, right, strict=True):
        ranked = zip(one.top, other.top, strict=True)
        pairs += [(before, after) for (_, before), (_, after) in ranked]
    assert all(math.isfinite(after) for _, after in pairs), "a log-probability is destroyed"
    return max(abs(before - after) for before, after in pairs)


def assert_same(alone: Sequence[Sample], mixed: Sequence[Sample]) -> None:
    for one, other in zip(alone, mixed, strict=True):
        assert one.token_ids == other.token_ids
        assert farthest(one.logprobs, other.logprobs) <= NOISE


async def test_sampling_is_the_same_beside_sampling(engine: Engine) -> None:
    """The control: plain neighbours are within the noise, too."""
    alone = await stories(engine)
    async with beside(lambda: draw(engine, PROMPTS[0], temperature=1.0, max_tokens=8)) as answers:
        mixed = await stories(engine)
    assert len(answers) >= 8
    assert_same(alone, mixed)


async def test_sampling_is_the_same_beside_scoring(engine: Engine) -> None:
    alone = await stories(engine)
    places = count()
    async with beside(lambda: score(engine, question(next(places), alone))) as answers:
        mixed = await stories(engine)
    assert len(answers) >= 8, "there was hardly any scoring meanwhile"
    assert_same(alone, mixed)


async def test_scores_are_the_same_beside_sampling(engine: Engine) -> None:
    told = await stories(engine)
    asked = [question(place, told) for place in range(12)]
    alone = [await score(engine, each) for each in asked]
    async with beside(lambda: draw(engine, PROMPTS[1], temperature=1.0, max_tokens=40)):
        await asyncio.sleep(0.2)
        mixed = [await score(engine, each) for each in asked]
    assert all(len(each.logprobs[0].top) == ALTERNATIVES for each in mixed)
    assert_same(alone, mixed)


async def test_asking_for_chosen_tokens_would_be_noticed(engine: Engine) -> None:
    """What verifiers must not do on a shared engine: it destroys the neighbours' alternatives."""
    from vllm import SamplingParams

    core: Any = engine._running_core()  # type: ignore[attr-defined]
    numbers = count()

    async def choose() -> None:
        sampling = SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=[10, 20])
        prompt = {"prompt_token_ids": [1, 2, 3, 4]}
        async for _ in core.generate(prompt, sampling, f"chosen-{next(numbers)}"):
            pass

    alone = await stories(engine)
    async with beside(choose):
        mixed = await stories(engine)
    with pytest.raises((AssertionError, ValueError)):
        assert_same(alone, mixed)
