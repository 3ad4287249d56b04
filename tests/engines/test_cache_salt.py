"""A prompt's `cache_salt` reaches the engines that know it, and no others."""

from dataclasses import replace

import pytest

from tests.engines.conftest import started
from tests.engines.contract import PROMPT, SAMPLING, draw
from tests.stub_replies import JSON
from tests.stub_upstream import Stub
from tests.threaded import threaded

SALTED = replace(PROMPT, cache_salt="0123456789abcdef")


class Strict(Stub):
    """An upstream that refuses what it does not know, as OpenAI's own."""

    def refusal(self, body: JSON) -> tuple[int, str, str] | None:
        if "cache_salt" in body:
            return 400, "Unrecognized request argument", "cache_salt"
        return super().refusal(body)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_upstream_that_takes_it_gets_it(streamed: bool) -> None:
    stub = Stub()
    with threaded(stub.app()) as stub.port:
        async with started(stub) as engine:
            stub.records.clear()
            sampling = replace(SAMPLING, incremental=streamed)
            await draw(engine, sampling, prompt=SALTED)
            await draw(engine, sampling, prompt=PROMPT)
    assert [each.body.get("cache_salt") for each in stub.records] == [SALTED.cache_salt, None]


async def test_an_upstream_that_refuses_it_is_spared() -> None:
    stub = Strict()
    with threaded(stub.app()) as stub.port:
        async with started(stub) as engine:
            stub.records.clear()
            assert (await draw(engine, prompt=SALTED))[0].last.finish_reason == "stop"
    assert [each for each in stub.records if "cache_salt" in each.body] == []
