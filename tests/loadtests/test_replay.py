"""The replay upstream over real sockets: to the official client, and to our own server."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from loadtests.pools import Pool, Sample
from loadtests.replay import replay_app
from loadtests.replay_cut import Limits, cut
from loadtests.replay_decks import PROBE, READINESS
from server import health
from server.engines import http_probe
from tests.loadtests.asgi import MODEL, QUESTIONS, SAMPLES, make_pool, make_sample, ours, serving
from verifiers.equality import AnswerEquality
from verifiers.types import Candidate, Continuation, Prompt, TokenLogprob
from verifiers.votes import gather_votes


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return make_pool(tmp_path / "pool")


@asynccontextmanager
async def client(*pools: Pool, speed: float | None = None) -> AsyncIterator[AsyncOpenAI]:
    async with (
        serving(replay_app(pools, speed)) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as each,
    ):
        yield each


def asking(question: str = QUESTIONS[0], **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], **fields}


async def test_a_group_is_the_next_recorded_samples(pool: Pool) -> None:
    first, *_ = pool.recorded
    async with client(pool) as openai_client:
        for start in (0, 3, 6):
            answer = await openai_client.chat.completions.create(**asking(n=3))
            samples = first.samples[start : start + 3]
            assert [each.message.content for each in answer.choices] == [s.text for s in samples]
            assert [each.finish_reason for each in answer.choices] == [
                s.finish_reason for s in samples
            ]
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == samples[0].prompt_tokens
            assert answer.usage.completion_tokens == sum(s.completion_tokens for s in samples)


async def test_it_never_wraps_round_and_reset_begins_anew(pool: Pool) -> None:
    async with client(pool) as openai_client:
        create = openai_client.chat.completions.create
        whole = await create(**asking(n=SAMPLES - 1))
        with pytest.raises(
            openai.BadRequestError, match="2 samples asked for, 1 of 16 left"
        ) as spent:
            await create(**asking(n=2))
        assert spent.value.code == "pool_exhausted"
        last = await create(**asking())
        assert last.choices[0].message.content == pool.recorded[0].samples[-1].text
        with pytest.raises(openai.BadRequestError, match="0 of 16 left"):
            await create(**asking())
        await create(**asking(QUESTIONS[1]))
        url = str(openai_client.base_url).removesuffix("/v1/")
        async with httpx.AsyncClient(base_url=url) as plain:
            assert (await plain.get("/replay")).json()["given"] == {MODEL: SAMPLES + 1}
            assert (await plain.post("/reset")).status_code == 204
        again = await create(**asking(n=SAMPLES - 1))
        assert again.choices == whole.choices


async def test_wrapped_questions_are_known_and_the_longest_wins(pool: Pool) -> None:
    short, _, long, _ = pool.recorded
    system = {"role": "system", "content": QUESTIONS[3]}
    parts = [{"type": "text", "text": f"Solve: {QUESTIONS[2]} Take your time."}]
    messages: Any = [system, {"role": "user", "content": parts}]
    async with client(pool) as openai_client:
        create = openai_client.chat.completions.create
        wrapped = await create(model="x", messages=messages)
        assert wrapped.choices[0].message.content == long.samples[0].text
        earlier = [{"role": "user", "content": f"First: {QUESTIONS[2]}"}, *asking()["messages"]]
        exact = await create(**asking() | {"messages": earlier})
        assert exact.choices[0].message.content == short.samples[0].text
        with pytest.raises(openai.NotFoundError, match="What is love") as unknown:
            await create(**asking("What is love?"))
        assert unknown.value.code == "unknown_question"


async def test_the_model_picks_the_pool(pool: Pool, tmp_path: Path) -> None:
    other = make_pool(tmp_path / "other", "other", whole=False)
    other = replace(other, rows=tuple(replace(row, text=f"!{row.text}") for row in other.rows))
    async with client(pool, other) as openai_client:
        assert [each.id async for each in openai_client.models.list()] == [MODEL, "other"]
        for each in (pool, other):
            answer = await openai_client.chat.completions.create(
                **asking() | {"model": each.manifest.model}
            )
            assert answer.choices[0].message.content == each.recorded[0].samples[0].text
        with pytest.raises(openai.NotFoundError, match="third"):
            await openai_client.chat.completions.create(**asking() | {"model": "third"})


@pytest.mark.parametrize(
    "field",
    [
        {"extra_body": {"continue_final_message": True}},
        {"response_format": {"type": "json_object"}},
        {"n": 0},
        {"stop": [""]},
    ],
)
async def test_what_no_recorded_reply_can_obey_is_refused(pool: Pool, field: Any) -> None:
    async with client(pool) as openai_client:
        with pytest.raises(openai.BadRequestError):
            await openai_client.chat.completions.create(**asking(**field))
        answer = await openai_client.chat.completions.create(**asking())
        assert answer.choices[0].message.content == pool.recorded[0].samples[0].text


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_stream_says_what_the_whole_answer_says(
    tmp_path: Path, whole: bool, n: int
) -> None:
    pool = make_pool(tmp_path / "pool", whole=whole)
    samples = pool.recorded[0].samples[:n]
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with client(pool) as openai_client:
        stream = await openai_client.chat.completions.create(
            **asking(n=n, stream=True, stream_options=options, logprobs=True, top_logprobs=20)
        )
        chunks = [chunk async for chunk in stream]
    *told, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == sum(s.completion_tokens for s in samples)
    for index, sample in enumerate(samples):
        mine = [(c, c.choices[0]) for c in told if c.choices[0].index == index]
        assert mine[0][1].delta.role == "assistant"
        pieces = [choice.delta.content or "" for _, choice in mine[1:]]
        assert "".join(pieces) == sample.text
        assert len(pieces) == sample.completion_tokens
        if sample.lengths:
            assert tuple(map(len, pieces)) == sample.lengths
        counts = [chunk.usage.completion_tokens for chunk, _ in mine if chunk.usage]
        assert counts == list(range(sample.completion_tokens + 1))
        entries = [entry for _, c in mine if c.logprobs for entry in c.logprobs.content or ()]
        assert tuple(entry.logprob for entry in entries) == sample.logprobs
        assert [c.finish_reason for _, c in mine if c.finish_reason] == [sample.finish_reason]


async def test_alternatives_have_the_recorded_confidence(pool: Pool) -> None:
    sample = pool.recorded[0].samples[0]
    async with client(pool) as openai_client:
        answer = await openai_client.chat.completions.create(
            **asking(logprobs=True, top_logprobs=20)
        )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(entry.token for entry in logprobs.content) == sample.text
    tops = [entry.top_logprobs for entry in logprobs.content]
    assert tuple(-sum(each.logprob for each in top) / 20 for top in tops) == pytest.approx(
        sample.confidence
    )
    assert {len({each.token for each in top}) for top in tops} == {20}


@given(
    st.integers(0, 50),
    st.booleans(),
    st.lists(st.sampled_from(["so", "hence\n", "n t", "x", "7 ", "{42"]), max_size=3),
    st.booleans(),
    st.none() | st.integers(1, 40),
)
def test_a_cut_shows_what_comes_before_the_first_stop_and_counts_to_its_end(
    number: int, whole: bool, stops: list[str], keep: bool, cap: int | None
) -> None:
    sample = make_sample("p0", number, whole, 1.0)
    full = cut(sample, Limits())
    assert (full.text, len(full.tokens)) == (sample.text, sample.completion_tokens)
    reply = cut(sample, Limits(cap, tuple(stops), keep, 0))
    made = "".join(reply.tokens)
    assert "".join(reply.pieces) == reply.text
    assert reply.tokens == full.tokens[: len(reply.tokens)]
    assert sample.text.startswith(made)
    assert len(reply.tokens) <= (cap or sample.completion_tokens)
    if whole:
        assert reply.logprobs is not None
        assert len(reply.logprobs) == len(reply.tokens)
    if reply.stop_reason is not None:
        shown = reply.text.removesuffix(reply.stop_reason) if keep else reply.text
        assert made.startswith(shown + reply.stop_reason)
        assert "".join(reply.tokens[:-1]) in (shown + reply.stop_reason)[:-1]
        assert reply.finish_reason == "stop"
    else:
        assert not any(stop in made for stop in stops)
        assert reply.text == made
        cut_off = len(reply.tokens) < sample.completion_tokens
        assert reply.finish_reason == ("length" if cut_off else sample.finish_reason)


async def test_stop_and_cap_over_the_wire(pool: Pool) -> None:
    sample = pool.recorded[0].samples[0]
    stop = sample.text[10:14]
    async with client(pool) as openai_client:
        answer = await openai_client.chat.completions.create(**asking(stop=stop))
        assert answer.choices[0].message.content == sample.text[: sample.text.find(stop)]
        url = str(openai_client.base_url).removesuffix("/v1/")
        async with httpx.AsyncClient() as plain:
            await plain.post(f"{url}/reset")
        answer = await openai_client.chat.completions.create(**asking(max_completion_tokens=4))
        assert answer.choices[0].finish_reason == "length"
        assert answer.choices[0].message.content == sample.text[: sum(sample.lengths[:4])]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4


async def test_recorded_time_is_taken_and_a_hang_up_ends_it(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "slow", seconds=60.0)
    async with client(pool, speed=100.0) as openai_client:
        start = time.monotonic()
        await openai_client.chat.completions.create(**asking())
        assert time.monotonic() - start >= 0.6
        start, seconds = time.monotonic(), []
        async for _ in await openai_client.chat.completions.create(**asking(stream=True)):
            seconds.append(time.monotonic() - start)
        assert seconds[-1] >= 0.6
        assert seconds[len(seconds) // 2] < 0.8 * seconds[-1]
    for stream in (True, False):
        async with (
            serving(replay_app([pool], 1.0)) as url,
            httpx.AsyncClient(base_url=url) as plain,
        ):
            call = asyncio.create_task(
                plain.post("/v1/chat/completions", json=asking(stream=stream))
            )
            await _running(plain, 1)
            call.cancel()
            await _running(plain, 0)


async def _running(plain: httpx.AsyncClient, count: int) -> None:
    async with asyncio.timeout(10):
        while (await plain.get("/replay")).json()["running"] != count:
            await asyncio.sleep(0.01)


async def test_our_engine_finds_what_a_pool_can_and_cannot(pool: Pool, tmp_path: Path) -> None:
    assert http_probe._QUESTION == [{"role": "user", "content": PROBE}]
    assert health._QUESTION.messages == ({"role": "user", "content": READINESS},)
    bare = make_pool(tmp_path / "bare", whole=False)
    for each, logprobs in ((pool, 20), (bare, None)):
        async with serving(replay_app([each])) as upstream, ours(upstream) as (_, engine):
            found = engine.capabilities
            assert found.together
            assert found.logprobs == logprobs
            assert found.continuation is Continuation.NONE
            assert (found.seeds, found.grammars, found.tools) == (False, False, False)
            assert engine._probed.stream_options == {
                "include_usage": True,
                "continuous_usage_stats": True,
            }
            async with httpx.AsyncClient() as plain:
                state = (await plain.get(f"{upstream}/replay")).json()
            assert state == {"given": {MODEL: 0}, "running": 0}


@pytest.mark.parametrize("stream", [False, True])
async def test_self_consistency_is_the_offline_vote_of_the_same_samples(
    pool: Pool, stream: bool
) -> None:
    async with (
        serving(replay_app([pool])) as upstream,
        ours(upstream) as (url, _),
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as openai_client,
    ):
        for recorded in pool.recorded:
            text, answer, usage = await _voted(openai_client, recorded.problem.question, stream)
            votes = await _offline(recorded.samples, recorded.problem.messages)
            assert text == votes.ranked[0].text
            assert answer == votes.answer
            assert usage == (
                recorded.samples[0].prompt_tokens,
                sum(sample.completion_tokens for sample in recorded.samples),
            )


async def _voted(
    openai_client: AsyncOpenAI, question: str, stream: bool
) -> tuple[str, str | None, tuple[int, int]]:
    extra = {
        "strategy": {"type": "self_consistency", "n": SAMPLES},
        "budget": {"max_tokens": 65_536},
    }
    create = openai_client.chat.completions.create
    if not stream:
        whole = await create(**asking(question, extra_body=extra))
        text, last = whole.choices[0].message.content or "", whole
        scaling = whole.model_extra["scaling"] if whole.model_extra else {}
    else:
        options = {"include_usage": True}
        asked = asking(question, extra_body=extra, stream=True, stream_options=options)
        *told, last = [chunk async for chunk in await create(**asked)]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in told if chunk.choices)
        [scaling] = [
            chunk.model_extra["scaling"]
            for chunk in told
            if chunk.model_extra and "scaling" in chunk.model_extra
        ]
    assert scaling["usage"]["sample"]["exact"]
    assert last.usage is not None
    usage = last.usage.prompt_tokens, last.usage.completion_tokens
    return text, scaling["answer"], usage


async def _offline(samples: tuple[Sample, ...], messages: Any) -> Any:
    candidates = [_candidate(sample) for sample in samples]
    equality = AnswerEquality()
    try:
        return await gather_votes(candidates, Prompt(messages), equality)
    finally:
        await equality.aclose()


def _candidate(sample: Sample) -> Candidate:
    """The server asks for log-probabilities, by which it breaks ties."""
    logprobs = tuple(TokenLogprob("", each) for each in sample.logprobs)
    return replace(sample.candidate(), logprobs=logprobs)
