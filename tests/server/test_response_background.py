"""Background responses with the official client: retrieved, followed, cancelled, gone on with."""

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from server.engines.scripted import ScriptedEngine
from tests.server.local import Local, local
from verifiers.errors import EngineError, EngineUnavailable
from verifiers.types import Message, Prompt, Sampling

ASK = "What is 6 times 7?"
ENDS = ("response.completed", "response.incomplete", "response.failed")
QUICK: dict[str, Any] = {"background": {"backoff_s": 0.05, "attempts": 3}}


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    with local(ScriptedEngine(delay=0.01)) as served:
        yield served


@pytest.fixture
def client(server: Local) -> Iterator[OpenAI]:
    with client_of(server) as client:
        yield client


def client_of(server: Local) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def create(client: OpenAI, **body: Any) -> Any:
    return client.responses.create(
        **{"model": "scripted", "input": ASK, "background": True, **body}
    )


def ended(client: OpenAI, response_id: str) -> Any:
    end = time.monotonic() + 10
    while (told := client.responses.retrieve(response_id)).status in ("queued", "in_progress"):
        assert time.monotonic() < end
        time.sleep(0.02)
    return told


def followed(client: OpenAI, response_id: str, **query: Any) -> list[Any]:
    return list(client.responses.retrieve(response_id, stream=True, **query))


def test_an_id_at_once_and_the_answer_later(client: OpenAI) -> None:
    made = create(client, extra_body={"seed": 1, "strategy": {"type": "best_of_n", "n": 3}})
    assert (made.status, made.output, made.background) == ("queued", [], True)
    told = ended(client, made.id)
    whole = client.responses.create(
        model="scripted",
        input=ASK,
        extra_body={"seed": 1, "strategy": {"type": "best_of_n", "n": 3}},
    )
    assert told.status == "completed"
    assert told.output_text == whole.output_text
    assert told.usage == whole.usage
    assert told.id == made.id
    assert told.background


def test_events_of_a_response(client: OpenAI) -> None:
    made = create(client, extra_body={"seed": 1})
    events = followed(client, made.id)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:4]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
    ]
    final = events[-1]
    assert final.type == "response.completed"
    assert final.response.to_dict() == client.responses.retrieve(made.id).to_dict()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.response.output_text
    for after in (0, 3, len(events) - 2):
        assert followed(client, made.id, starting_after=after) == events[after + 1 :]
    assert followed(client, made.id, starting_after=len(events) - 1) == []


def test_the_stream_helper_follows_and_comes_back(client: OpenAI) -> None:
    made = create(client, extra_body={"seed": 1})
    with client.responses.stream(response_id=made.id) as stream:
        first = [next(stream) for _ in range(5)]
    last = first[-1].sequence_number
    with client.responses.stream(response_id=made.id, starting_after=last) as stream:
        rest = list(stream)
    assert rest[0].sequence_number == last + 1
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == ended(client, made.id).output_text


def test_a_stream_that_is_of_the_background_too(client: OpenAI) -> None:
    events = create(client, stream=True, extra_body={"seed": 1})
    response_id = next(events).response.id
    events.close()  # the work goes on
    assert ended(client, response_id).output_text


def test_cancelling(server: Local, client: OpenAI) -> None:
    made = create(client, extra_body={"strategy": {"type": "self_consistency", "n": 4}})
    server.wait_until(lambda: server.engine.running == 4)
    assert client.responses.cancel(made.id).status == "cancelled"
    server.wait_until(lambda: server.engine.running == 0, seconds=2)
    assert client.responses.retrieve(made.id).status == "cancelled"
    last = followed(client, made.id)[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "cancelled")
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, previous_response_id=made.id)
    assert refused.value.param == "previous_response_id"


def test_a_conversation_goes_on_in_the_background(client: OpenAI) -> None:
    made = create(client)
    with pytest.raises(openai.BadRequestError):
        create(client, previous_response_id=made.id)
    ended(client, made.id)
    assert ended(client, create(client, previous_response_id=made.id).id).output_text


def test_deleting_stops_the_work(server: Local, client: OpenAI) -> None:
    made = create(client, extra_body={"strategy": {"type": "self_consistency", "n": 4}})
    server.wait_until(lambda: server.engine.running == 4)
    client.responses.delete(made.id)
    server.wait_until(lambda: server.engine.running == 0, seconds=2)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_failure_is_told() -> None:
    engine = ScriptedEngine(fail=lambda *_: EngineError("broken"))
    with local(engine, **QUICK) as server, client_of(server) as client:
        made = create(client)
        told = ended(client, made.id)
        assert told.status == "failed"
        assert told.error.code == "server_error"
        last = followed(client, made.id)[-1]
        assert (last.type, last.response.error) == ("response.failed", told.error)


def test_a_second_turn_ends_what_the_first_had_begun() -> None:
    """The helper, which is strict about items and their places, follows over a failed turn."""
    failing = [True]

    def script(prompt: Prompt, sampling: Sampling, index: int) -> Message:
        return Message("The answer is \\boxed{42}.", "Six sevens are forty-two. ")

    class Breaks(ScriptedEngine):
        """Breaks off its first reply in the middle."""

        async def generate(self, prompt: Any, sampling: Any, n: int = 1) -> Any:
            count = 0
            async for chunk in super().generate(prompt, sampling, n):
                yield chunk
                count += 1
                if count == 6 and failing:
                    failing.clear()
                    raise EngineUnavailable("away")

    with local(Breaks(script, delay=0.08), **QUICK) as server, client_of(server) as client:
        made = create(client)
        with client.responses.stream(response_id=made.id) as stream:
            final = stream.get_final_response()
        assert final.output_text == "The answer is \\boxed{42}."
        events = followed(client, made.id)
        done = [event for event in events if event.type == "response.output_item.done"]
        items = [(event.output_index, event.item.type, event.item.status) for event in done]
        assert items[-2:] == [
            (len(items) - 2, "reasoning", "completed"),
            (len(items) - 1, "message", "completed"),
        ]
        assert "incomplete" in [status for *_, status in items]
        assert len({event.item.id for event in done}) == len(done)
