"""The metering proxy: what it counts is what went by, and what goes by is untouched."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from loadtests.meter import meter_app
from loadtests.pools import Pool
from loadtests.replay import replay_app
from tests.loadtests.asgi import MODEL, QUESTIONS, SAMPLES, make_pool, ours, serving, until
from tests.stub_upstream import Fault, running_stub

CHAT = "/v1/chat/completions"


@dataclass
class Metered:
    """A meter in front of a replay upstream; plain clients of both."""

    pool: Pool
    upstream: httpx.AsyncClient
    meter: httpx.AsyncClient

    @property
    def url(self) -> str:
        return str(self.meter.base_url)


@pytest.fixture
async def metered(tmp_path: Path) -> AsyncIterator[Metered]:
    pool = make_pool(tmp_path / "pool")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        upstream = await enter(serving(replay_app([pool])))
        meter = await enter(serving(meter_app(f"{upstream}/v1")))
        yield Metered(
            pool,
            await enter(httpx.AsyncClient(base_url=upstream)),
            await enter(httpx.AsyncClient(base_url=meter)),
        )


async def counts(meter: httpx.AsyncClient) -> dict[str, Any]:
    """Read the counts once no call is open."""
    async with asyncio.timeout(10):
        while (told := (await meter.get("/meter")).json())["open"]:
            await asyncio.sleep(0.005)
    assert 0 <= told["busy_seconds"] <= told["wall_seconds"]
    return dict(told)


def asking(question: str = QUESTIONS[0], **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], **fields}


async def test_the_official_client_is_counted_as_the_pool_counts(metered: Metered) -> None:
    async with AsyncOpenAI(base_url=f"{metered.url}/v1", api_key="none", max_retries=0) as client:
        create = client.chat.completions.create
        for recorded in metered.pool.recorded:
            question = recorded.problem.question
            await create(**asking(question, n=8))
            streamed = [c async for c in await create(**asking(question, n=8, stream=True))]
            assert all(chunk.choices and chunk.usage is None for chunk in streamed)
        with pytest.raises(openai.BadRequestError, match="0 of 16 left"):
            await create(**asking())
    told = await counts(metered.meter)
    recordings = metered.pool.recorded
    assert told["calls"] == 2 * len(recordings) + 1
    assert told["samples"] == SAMPLES * len(recordings)
    assert told["errors"] == 1
    assert told["aborted"] == 0
    assert told["exact"]
    assert told["prompt_tokens"] == sum(2 * each.samples[0].prompt_tokens for each in recordings)
    assert told["completion_tokens"] == sum(row.completion_tokens for row in metered.pool.rows)
    await metered.meter.post("/meter/reset")
    assert await counts(metered.meter) == dict.fromkeys(told, 0) | {"exact": True}


async def test_our_server_in_front_is_counted_as_it_counts_itself(metered: Metered) -> None:
    extra = {"strategy": {"type": "self_consistency", "n": SAMPLES}}
    extra |= {"budget": {"max_tokens": 65_536}}
    async with ours(metered.url) as (url, _), httpx.AsyncClient(base_url=url) as plain:
        await counts(metered.meter)
        await metered.meter.post("/meter/reset")
        stages = []
        for recorded in metered.pool.recorded:
            answer = await plain.post(CHAT, json=asking(recorded.problem.question, **extra))
            assert answer.status_code == 200, answer.text
            stages.append(answer.json()["scaling"]["usage"]["sample"])
    told = await counts(metered.meter)
    for key in ("prompt_tokens", "completion_tokens", "cached_tokens"):
        assert told[key] == sum(stage[key] for stage in stages), key
    assert told["completion_tokens"] == sum(row.completion_tokens for row in metered.pool.rows)
    assert told["calls"] == len(stages)
    assert told["samples"] == sum(stage["calls"] for stage in stages)
    assert (told["errors"], told["aborted"], told["exact"]) == (0, 0, True)


@pytest.mark.parametrize("options", [None, {"include_usage": True}])
@pytest.mark.parametrize("stream", [False, True])
async def test_answers_go_through_byte_by_byte(
    metered: Metered, stream: bool, options: Any
) -> None:
    body = asking(
        n=2, stream=stream, logprobs=True, **({"stream_options": options} if stream else {})
    )
    direct = await metered.upstream.post(CHAT, json=body)
    await metered.upstream.post("/reset")
    through = await metered.meter.post(CHAT, json=body)
    assert _undated(through.text) == _undated(direct.text)
    assert through.headers["content-type"] == direct.headers["content-type"]
    told = await counts(metered.meter)
    samples = metered.pool.recorded[0].samples[:2]
    assert told["completion_tokens"] == sum(sample.completion_tokens for sample in samples)
    assert told["exact"]


def _undated(text: str) -> str:
    blocks = [block.removeprefix("data: ") for block in text.split("\n\n")]
    read = [json.loads(block) if block.startswith("{") else block for block in blocks]
    return json.dumps([{**each, "created": 0} if isinstance(each, dict) else each for each in read])


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "/v1/models", b""),
        ("GET", "/v1/nothing?x=1", b""),
        ("POST", CHAT, b"no JSON"),
        ("POST", CHAT, json.dumps(asking("Who?")).encode()),
    ],
)
async def test_lists_and_errors_go_through(
    metered: Metered, method: str, path: str, content: bytes
) -> None:
    direct = await metered.upstream.request(method, path, content=content)
    through = await metered.meter.request(method, path, content=content)
    assert (through.status_code, through.content) == (direct.status_code, direct.content)
    told = await counts(metered.meter)
    assert (told["calls"], told["errors"]) == ((1, 1) if method == "POST" else (0, 0))
    assert (told["samples"], told["exact"]) == (0, True)


@pytest.mark.parametrize("options", [None, {"continuous_usage_stats": True, "include_usage": True}])
async def test_a_hang_up_passes_through_and_what_was_seen_counts(options: Any) -> None:
    with running_stub(interval=0.05) as stub:
        async with (
            serving(meter_app(stub.base_url)) as url,
            httpx.AsyncClient(base_url=url) as meter,
        ):
            body = asking(stream=True, max_tokens=200, stream_options=options)
            body["model"], seen = stub.model, 0
            async with meter.stream("POST", CHAT, json=body) as answer:
                async for line in answer.aiter_lines():
                    seen += '"content":"' in line and '"content":""' not in line
                    if seen == 3:
                        break
            await until(lambda: stub.records[0].aborted is not None)
            told = await counts(meter)
            assert (told["aborted"], told["errors"], told["exact"]) == (1, 0, False)
            assert 3 <= told["completion_tokens"] <= len(stub.records[0].tokens)
            assert (told["prompt_tokens"] > 0) == (options is not None)


async def test_a_hang_up_before_a_whole_answer_passes_through() -> None:
    with running_stub(interval=0.1) as stub:
        async with (
            serving(meter_app(stub.base_url)) as url,
            httpx.AsyncClient(base_url=url) as meter,
        ):
            body = asking(max_tokens=200) | {"model": stub.model}
            call = asyncio.create_task(meter.post(CHAT, json=body))
            await until(lambda: stub.running == 1)
            call.cancel()
            await until(lambda: stub.records[0].aborted is not None)
            told = await counts(meter)
            assert (told["calls"], told["aborted"], told["exact"]) == (1, 1, False)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstream_that_breaks_off_is_an_error_on_both_sides(stream: bool) -> None:
    with running_stub() as stub:
        stub.faults.append(Fault(disconnect_after=4))
        async with (
            serving(meter_app(stub.base_url)) as url,
            httpx.AsyncClient(base_url=url) as meter,
        ):
            body = asking(stream=stream) | {"model": stub.model}
            if stream:
                with pytest.raises(httpx.RemoteProtocolError):
                    await meter.post(CHAT, json=body)
            else:
                assert (await meter.post(CHAT, json=body)).status_code == 502
            told = await counts(meter)
            assert (told["errors"], told["aborted"], told["exact"]) == (1, 0, False)


async def test_cached_tokens_are_counted_and_silence_is_not_exact() -> None:
    with running_stub() as stub:
        async with (
            serving(meter_app(stub.base_url)) as url,
            httpx.AsyncClient(base_url=url) as meter,
        ):
            body = asking(" ".join(["word"] * 100)) | {"model": stub.model}
            answer = (await meter.post(CHAT, json=body)).json()
            told = await counts(meter)
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert told["cached_tokens"] == cached > 0
            stub.usage = False
            await meter.post(CHAT, json=body)
            assert not (await counts(meter))["exact"]


async def test_an_upstream_that_is_not_there_is_a_503() -> None:
    async with serving(meter_app("http://127.0.0.1:9/v1")) as url, httpx.AsyncClient() as plain:
        answer = await plain.post(f"{url}{CHAT}", json=asking())
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "engine_unavailable"
