"""What every engine must do: one check per promise of the Engine protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import pytest

from verifiers.errors import BadRequest
from verifiers.types import (
    TOKEN_IDS,
    Chunk,
    Continuation,
    Engine,
    Prompt,
    Reply,
    Sampling,
    Usage,
)

PROMPT = Prompt(({"role": "user", "content": "What is 17 times 3? Think step by step."},))
SAMPLING = Sampling(max_tokens=40, temperature=1.0, seed=11)


@dataclass(frozen=True)
class Subject:
    """An engine under test, and the truth about it from behind the protocol."""

    engine: Engine
    tokens: Callable[[], int]
    """Tokens generated until now, as the engine's own side counts them."""
    running: Callable[[], int]
    """Generations that go on now."""
    slow: Callable[[float], None]
    """From now on a token takes so many seconds."""
    fail_one: Callable[[], None] | None
    """Let one sample of the next group fail; None where that cannot be brought about."""
    repeatable: bool = True
    """Whether equal seeds promise equal text whatever else is in the batch."""

    async def at_rest(self, seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while self.running():
                await asyncio.sleep(0.005)


@dataclass
class Sample:
    """All chunks of one index, joined."""

    chunks: list[Chunk]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token_id for chunk in self.chunks for token_id in chunk.token_ids)

    @property
    def logprobs(self) -> list[object]:
        return [entry for chunk in self.chunks for entry in chunk.logprobs]

    @property
    def usage(self) -> Usage:
        return sum((chunk.usage for chunk in self.chunks), Usage())

    @property
    def last(self) -> Chunk:
        return self.chunks[-1]


async def draw(
    engine: Engine, sampling: Sampling = SAMPLING, n: int = 1, prompt: Prompt = PROMPT
) -> dict[int, Sample]:
    samples: dict[int, Sample] = {}
    async with aclosing(engine.generate(prompt, sampling, n)) as chunks:
        async for chunk in chunks:
            samples.setdefault(chunk.index, Sample([])).chunks.append(chunk)
    return samples


async def every_sample_ends_once(subject: Subject) -> None:
    for incremental in (False, True):
        samples = await draw(subject.engine, replace(SAMPLING, incremental=incremental), n=4)
        assert set(samples) == {0, 1, 2, 3}
        for sample in samples.values():
            assert sample.last.finish_reason in ("stop", "length")
            assert all(chunk.finish_reason is None for chunk in sample.chunks[:-1])
            assert sample.text
    await subject.at_rest()


async def chunks_add_up(subject: Subject) -> None:
    whole = await draw(subject.engine, n=3)
    pieces = await draw(subject.engine, replace(SAMPLING, incremental=True), n=3)
    assert all(len(sample.chunks) > 1 for sample in pieces.values())
    if subject.repeatable:
        assert {i: s.text for i, s in whole.items()} == {i: s.text for i, s in pieces.items()}
        assert {i: s.token_ids for i, s in whole.items()} == {
            i: s.token_ids for i, s in pieces.items()
        }


async def counts_are_the_truth(subject: Subject) -> None:
    for incremental in (False, True):
        before = subject.tokens()
        samples = await draw(subject.engine, replace(SAMPLING, incremental=incremental), n=4)
        usage = sum((sample.usage for sample in samples.values()), Usage())
        assert usage.completion_tokens == subject.tokens() - before
        assert usage.exact
        assert usage.prompt_tokens > 0
        assert usage.calls == 0, "calls are the session's to count"
        for sample in samples.values():
            assert not sample.token_ids or len(sample.token_ids) == sample.usage.completion_tokens


async def max_tokens_hold(subject: Subject) -> None:
    for most in (1, 5):
        samples = await draw(subject.engine, replace(SAMPLING, max_tokens=most), n=3)
        for sample in samples.values():
            assert sample.usage.completion_tokens == most
            assert sample.last.finish_reason == "length"


async def stop_strings_end_a_sample(subject: Subject) -> None:
    greedy = replace(SAMPLING, temperature=0.0)
    text = (await draw(subject.engine, greedy))[0].text
    stop = text.split()[3]
    before = text[: text.index(stop)]
    for incremental in (False, True):
        asked = replace(greedy, stop=(stop, "never said"), incremental=incremental)
        cut = (await draw(subject.engine, asked))[0]
        kept = (await draw(subject.engine, replace(asked, keep_stop=True)))[0]
        assert cut.text == before
        assert kept.text == before + stop
        assert cut.last.finish_reason == kept.last.finish_reason == "stop"
        assert cut.last.stop_reason == kept.last.stop_reason == stop
        assert cut.usage.completion_tokens == kept.usage.completion_tokens


async def seeds_repeat_and_differ(subject: Subject) -> None:
    assert subject.engine.capabilities.seeds
    first, second = [
        {i: sample.text for i, sample in (await draw(subject.engine, n=4)).items()}
        for _ in range(2)
    ]
    assert len(set(first.values())) > 1, "the samples of a group must differ"
    other = await draw(subject.engine, replace(SAMPLING, seed=12), n=4)
    assert {sample.text for sample in other.values()} != set(first.values())
    if subject.repeatable:
        assert first == second


async def splitting_a_group_changes_nothing(subject: Subject) -> None:
    if not subject.repeatable:
        pytest.skip("text may differ with the batch")
    together = [sample.text for _, sample in sorted((await draw(subject.engine, n=4)).items())]
    apart = [(await draw(subject.engine, replace(SAMPLING, first=i)))[0].text for i in range(4)]
    assert together == apart


async def logprobs_come_when_asked(subject: Subject) -> None:
    for incremental in (False, True):
        for k in (None, 0, 3):
            asked = replace(SAMPLING, logprobs=k, incremental=incremental)
            for sample in (await draw(subject.engine, asked, n=2)).values():
                entries = [entry for chunk in sample.chunks for entry in chunk.logprobs]
                assert len(entries) == (0 if k is None else sample.usage.completion_tokens)
                assert all(entry.logprob <= 0 for entry in entries)
                assert all(len(entry.top) >= (k or 0) for entry in entries)


async def a_cut_reply_goes_on(subject: Subject) -> None:
    level = subject.engine.capabilities.continuation
    if level is Continuation.NONE:
        with pytest.raises(BadRequest):
            await draw(subject.engine, prompt=replace(PROMPT, reply=Reply("so")))
        return
    greedy = replace(SAMPLING, temperature=0.0)
    whole = (await draw(subject.engine, greedy))[0]
    cut = (await draw(subject.engine, replace(greedy, max_tokens=6)))[0]
    assert cut.last.finish_reason == "length"
    ids = cut.token_ids if level is Continuation.TOKEN_IDS else ()
    assert bool(ids) == (level is Continuation.TOKEN_IDS)
    going_on = replace(PROMPT, reply=Reply(cut.text, ids))
    rest = (await draw(subject.engine, replace(greedy, max_tokens=34), prompt=going_on))[0]
    assert rest.text
    if subject.repeatable:
        assert cut.text + rest.text == whole.text
        assert cut.token_ids + rest.token_ids == whole.token_ids


async def closing_stops_everything(subject: Subject) -> None:
    subject.slow(0.05)
    for incremental in (False, True):
        chunks = subject.engine.generate(
            PROMPT,
            replace(SAMPLING, incremental=incremental, max_tokens=400, min_tokens=400),
            4,
        )
        reading = asyncio.create_task(anext(chunks))
        if incremental:
            await reading
        else:
            await asyncio.sleep(0.2)
            assert subject.running()
            reading.cancel()
            await asyncio.wait([reading])
        await chunks.aclose()
        await subject.at_rest()
        made = subject.tokens()
        await asyncio.sleep(0.2)
        assert subject.tokens() == made
        assert not subject.running()


async def a_failed_sample_costs_that_sample(subject: Subject) -> None:
    if subject.fail_one is None:
        pytest.skip("no way to make one sample fail")
    subject.fail_one()
    samples = await draw(subject.engine, replace(SAMPLING, incremental=True), n=3)
    assert set(samples) == {0, 1, 2}
    failed = [sample for sample in samples.values() if sample.last.error is not None]
    assert len(failed) == 1
    assert failed[0].last.finish_reason is None
    assert sum(sample.last.finish_reason is not None for sample in samples.values()) == 2


async def bad_prompts_are_bad_requests(subject: Subject) -> None:
    length = subject.engine.capabilities.context_length
    too_long = Prompt(({"role": "user", "content": "and " * (length + 1)},))
    for prompt in (Prompt(()), too_long):
        before = subject.tokens()
        for incremental, n in ((False, 1), (True, 3)):
            with pytest.raises(BadRequest):
                await draw(subject.engine, replace(SAMPLING, incremental=incremental), n, prompt)
        assert subject.tokens() == before


async def prompts_are_counted(subject: Subject) -> None:
    counted = await subject.engine.count_tokens(PROMPT)
    sample = (await draw(subject.engine))[0]
    assert counted in (0, sample.usage.prompt_tokens)


async def a_plain_prompt_is_taken_as_it_is(subject: Subject) -> None:
    engine, text = subject.engine, "Once upon a time there was a fox who"
    templated = Prompt(({"role": "user", "content": text},))
    plain, greedy = replace(templated, plain=True), replace(SAMPLING, temperature=0.0)
    if not engine.capabilities.plain:
        with pytest.raises(BadRequest):
            await draw(engine, greedy, prompt=plain)
        return
    length = (await draw(engine, greedy, prompt=plain))[0].usage.prompt_tokens
    assert await engine.count_tokens(plain) in (0, length)
    assert 0 < length <= (await draw(engine, greedy, prompt=templated))[0].usage.prompt_tokens
    ids = Prompt(({"role": "user", "content": "", TOKEN_IDS: (1, 2, 3, 4, 5)},), plain=True)
    asked = replace(SAMPLING, logprobs=2, max_tokens=6)
    for prompt, counted in ((plain, length), (ids, 5)):
        for incremental in (False, True):
            samples = await draw(engine, replace(asked, incremental=incremental), 3, prompt)
            usage = sum((sample.usage for sample in samples.values()), Usage())
            assert usage.prompt_tokens in (counted, 3 * counted)
            for sample in samples.values():
                assert sample.last.finish_reason in ("stop", "length")
                assert len(sample.logprobs) == sample.usage.completion_tokens > 0
    if engine.capabilities.continuation is not Continuation.NONE and subject.repeatable:
        whole = (await draw(engine, greedy, prompt=plain))[0]
        cut = (await draw(engine, replace(greedy, max_tokens=6), prompt=plain))[0]
        going_on = replace(plain, reply=Reply(cut.text, cut.token_ids))
        rest = (await draw(engine, replace(greedy, max_tokens=34), prompt=going_on))[0]
        assert cut.text + rest.text == whole.text


CONTRACT = (
    every_sample_ends_once,
    chunks_add_up,
    counts_are_the_truth,
    max_tokens_hold,
    stop_strings_end_a_sample,
    seeds_repeat_and_differ,
    splitting_a_group_changes_nothing,
    logprobs_come_when_asked,
    a_cut_reply_goes_on,
    closing_stops_everything,
    a_failed_sample_costs_that_sample,
    bad_prompts_are_bad_requests,
    prompts_are_counted,
    a_plain_prompt_is_taken_as_it_is,
)
