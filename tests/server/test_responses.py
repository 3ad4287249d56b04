"""OpenAI's responses with the official client: text, events, tools, conversations, fields."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from pydantic import BaseModel

from server.document.later import Deleted, InputItems, Response
from server.engines.scripted import ScriptedEngine
from server.engines.scripts import arithmetic
from server.responses.wire import IGNORED, REFUSED, ResponseRequest
from tests.server.local import Local, error_of, local
from verifiers.types import Message, Prompt, Sampling

ASK = "What is 6 times 7?"
THOUGHT = "Six sevens are forty-two. "
SAID = "The answer is \\boxed{42}."
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
LOOK: Any = {
    "type": "function",
    "name": "look",
    "description": "Look something up.",
    "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
    "strict": True,
}
PRESETS = {"wise": {"strategy": {"type": "self_consistency", "n": 5}}}
OURS = {"strategy", "verifier", "budget", "trace"}
VLLM = {"top_k", "min_p", "repetition_penalty", "thinking_token_budget", "chat_template_kwargs"}
SEEN: list[Prompt] = []


def script(prompt: Prompt, sampling: Sampling, index: int) -> str | Message:
    """Answer in the form that is asked for, think, or call a tool when told to look."""
    SEEN.append(prompt)
    if prompt.response_format is not None:
        return json.dumps({"value": 42, "unit": "cows"})
    last = str(prompt.messages[-1].get("content"))
    if "think" in last:
        return Message(SAID, THOUGHT)
    if prompt.tools and "look" in last:
        return Message("I look. " if "say" in last else "", tool_calls=(CALL, {**CALL, "id": "c2"}))
    return arithmetic(prompt, sampling, index)


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    with local(ScriptedEngine(script), presets=PRESETS) as served:
        yield served


@pytest.fixture
def client(server: Local) -> Iterator[OpenAI]:
    SEEN.clear()
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def create(client: OpenAI, **body: Any) -> Any:
    return client.responses.create(**{"model": "scripted", "input": ASK, **body})


def told(client: OpenAI, **body: Any) -> list[Any]:
    """Return the events of a stream, whose numbers are checked."""
    events = list(create(client, stream=True, **body))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


def kinds(events: list[Any]) -> list[str]:
    """Return the types of events, those that repeat once."""
    names = [event.type.removeprefix("response.") for event in events]
    return [name for place, name in enumerate(names) if names[place - 1 : place] != [name]]


def refused(server: Local, **body: Any) -> Any:
    before = server.engine.log.copy()
    response = server.http.post("/v1/responses", json={"input": ASK, **body})
    assert response.status_code == 400, response.text
    assert server.engine.log == before
    return error_of(response)


def test_a_response(server: Local, client: OpenAI) -> None:
    before = server.engine.log["tokens"]
    response = create(client, extra_body={"seed": 1, "strategy": {"type": "best_of_n", "n": 4}})
    chat = server.post(seed=1, strategy={"type": "best_of_n", "n": 4}).json()
    assert response.output_text == chat["choices"][0]["message"]["content"]
    assert (response.status, response.model, response.error) == ("completed", "scripted", None)
    [message] = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    scaling = response.model_extra["scaling"]
    assert scaling["strategy"] == "best_of_n"
    assert scaling["usage"]["sample"]["calls"] == 4
    usage, counted = response.usage, chat["usage"]
    assert usage.output_tokens == (server.engine.log["tokens"] - before) / 2
    assert usage.input_tokens == counted["prompt_tokens"]
    assert usage.total_tokens == counted["total_tokens"]
    details = counted["completion_tokens_details"]
    assert usage.output_tokens_details.reasoning_tokens == details["reasoning_tokens"]


def test_a_preset_and_a_strategy_in_the_path(server: Local, client: OpenAI) -> None:
    assert create(client, model="wise").model_extra["scaling"]["strategy"] == "self_consistency"
    response = server.http.post("/v1/beam/responses", json={"input": ASK})
    assert response.json()["scaling"]["strategy"] == "beam"
    assert server.http.post("/v1/none/responses", json={"input": ASK}).status_code == 404


def test_instructions_and_parts(client: OpenAI) -> None:
    image = "data:image/png;base64,AAAA"
    create(
        client,
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "Who?"}]},
            {"role": "assistant", "content": "You."},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "And this?"},
                    {"type": "input_image", "image_url": image, "detail": "low"},
                ],
            },
        ],
    )
    url = {"url": image, "detail": "low"}
    assert list(SEEN[0].messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "You."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And this?"},
                {"type": "image_url", "image_url": url},
            ],
        },
    ]


def test_events_of_a_text(client: OpenAI) -> None:
    events = told(client, extra_body={"seed": 3})
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response = events[-1].response
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == response.output_text == events[-4].text
    assert response.output[0] == events[-2].item
    whole = create(client, extra_body={"seed": 3})
    assert response.output_text == whole.output_text
    assert response.usage == whole.usage
    assert events[0].response.status == events[1].response.status == "in_progress"
    assert {event.response.id for event in (events[0], events[1], events[-1])} == {response.id}


def test_a_text_comes_as_it_is_written() -> None:
    engine = ScriptedEngine(delay=0.005)
    with local(engine) as server, OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        events = told(client)
        assert kinds(events).count("output_text.delta") == 1
        deltas = [event for event in events if event.type == "response.output_text.delta"]
        assert len(deltas) >= 0.8 * engine.log["tokens"]


def test_the_stream_helper_puts_the_response_together(client: OpenAI) -> None:
    for ask in (ASK, "think", "look", "say, and look"):
        asked: Any = {"model": "scripted", "input": ask, "tools": [LOOK]}
        with client.responses.stream(**asked, extra_body={"seed": 4}) as stream:
            final = stream.get_final_response()
        whole = create(client, **asked, extra_body={"seed": 4})
        assert final.output_text == whole.output_text
        assert [item.type for item in final.output] == [item.type for item in whole.output]


def test_thinking_is_an_item_of_its_own(client: OpenAI) -> None:
    response = create(client, input="think")
    thought, message = response.output
    assert (thought.type, thought.content[0].text, thought.summary) == ("reasoning", THOUGHT, [])
    assert message.content[0].text == SAID
    events = told(client, input="think")
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    places = [event.output_index for event in events if event.type.endswith("item.done")]
    assert places == [0, 1]
    assert [item.type for item in events[-1].response.output] == ["reasoning", "message"]
    create(
        client,
        input=[*[item.to_dict() for item in response.output], {"role": "user", "content": ASK}],
    )
    said = {"role": "assistant", "content": SAID, "reasoning_content": THOUGHT}
    assert SEEN[-1].messages[0] == said


def test_functions(client: OpenAI) -> None:
    response = create(client, input="look", tools=[LOOK], tool_choice="auto")
    calls = response.output
    assert [call.type for call in calls] == ["function_call"] * 2
    assert [(call.call_id, call.name, call.arguments) for call in calls] == [
        ("c1", "look", '{"x": 1}'),
        ("c2", "look", '{"x": 1}'),
    ]
    assert len({call.id for call in calls}) == 2
    outputs = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "7"} for call in calls
    ]
    given = [{"role": "user", "content": "look"}, *calls, *outputs]
    answer = create(client, input=given, tools=[LOOK])
    assert answer.output_text
    assert list(SEEN[-1].messages) == [
        {"role": "user", "content": "look"},
        {"role": "assistant", "tool_calls": [CALL, {**CALL, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
        {"role": "tool", "tool_call_id": "c2", "content": "7"},
    ]
    assert SEEN[-1].tools[0]["function"]["parameters"] == LOOK["parameters"]


def test_events_of_functions(client: OpenAI) -> None:
    events = told(client, input="say, and look", tools=[LOOK])
    call = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert kinds(events)[-9:] == [*call, *call, "completed"]
    response = events[-1].response
    assert [item.type for item in response.output] == ["message", "function_call", "function_call"]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == response.output


def test_a_function_that_is_forced(client: OpenAI) -> None:
    create(client, tools=[LOOK], tool_choice={"type": "function", "name": "look"})
    assert SEEN[-1].tool_choice == {"type": "function", "function": {"name": "look"}}
    response = create(client, tools=[LOOK], tool_choice="none", parallel_tool_calls=False)
    assert response.tools[0].name == "look"
    assert (response.tool_choice, response.parallel_tool_calls) == ("none", False)


def test_parse_with_a_schema(client: OpenAI) -> None:
    class Answer(BaseModel):
        value: int
        unit: str

    response = client.responses.parse(model="scripted", input=ASK, text_format=Answer)
    assert response.output_parsed == Answer(value=42, unit="cows")
    asked = SEEN[0].response_format
    assert asked
    assert asked["json_schema"]["name"] == "Answer"
    assert asked["json_schema"]["schema"]["required"] == ["value", "unit"]
    create(client, text={"format": {"type": "json_object"}})
    assert SEEN[-1].response_format == {"type": "json_object"}


def test_log_probabilities(client: OpenAI) -> None:
    include: Any = ["message.output_text.logprobs"]
    response = create(client, include=include, top_logprobs=2, extra_body={"seed": 1})
    part = response.output[0].content[0]
    assert "".join(entry.token for entry in part.logprobs) == part.text
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)
    events = told(client, include=include, top_logprobs=2, extra_body={"seed": 1})
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    tokens = [entry.token for event in deltas for entry in event.logprobs]
    assert tokens == [entry.token for entry in part.logprobs]
    assert create(client).output[0].content[0].logprobs == []


def test_a_reply_that_is_cut_off_is_incomplete(client: OpenAI) -> None:
    response = create(client, max_output_tokens=3, extra_body={"seed": 1})
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"
    last = told(client, max_output_tokens=3, extra_body={"seed": 1})[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == response.output_text


def test_a_stream_that_fails() -> None:
    with (
        local(ScriptedEngine(delay=1.0), heartbeat_s=0.05) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as late,
    ):
        events = told(late, extra_body={"budget": {"deadline_s": 0.3}})
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.code == "server_error"


def test_what_was_asked_is_repeated(client: OpenAI) -> None:
    response = create(
        client,
        instructions="Be brief.",
        metadata={"a": "b"},
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=500,
        reasoning={"effort": "low"},
        user="me",
    )
    assert response.instructions == "Be brief."
    assert response.metadata == {"a": "b"}
    assert (response.temperature, response.top_p, response.max_output_tokens) == (0.5, 0.9, 500)
    assert response.reasoning.effort == "low"
    assert response.text.format.type == "text"
    assert (response.truncation, response.background) == ("disabled", False)
    assert SEEN[0].template_arguments["reasoning_effort"] == "low"


def test_a_conversation_goes_on(client: OpenAI) -> None:
    first = create(client, instructions="Be brief.", input="Hello", extra_body={"seed": 1})
    second = create(client, previous_response_id=first.id, input="And then?")
    assert second.previous_response_id == first.id
    assert list(SEEN[-1].messages) == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And then?"},
    ]
    third = create(client, previous_response_id=second.id, input="At last?")
    items: Any = client.responses.input_items.list(third.id, order="asc")
    texts = [item.content[0].text for item in items]
    assert texts == ["Hello", first.output_text, "And then?", second.output_text, "At last?"]
    ids = [item.id for item in items]
    newest = client.responses.input_items.list(third.id, limit=2)
    assert [item.id for item in newest.data] == ids[:-3:-1]
    assert newest.has_more
    assert [item.id for item in newest] == ids[::-1]


def test_a_conversation_with_functions_goes_on(client: OpenAI) -> None:
    first = create(client, input="look", tools=[LOOK])
    output: Any = {"type": "function_call_output", "call_id": "c1", "output": "7"}
    create(client, previous_response_id=first.id, input=[output])
    assert [message["role"] for message in SEEN[-1].messages] == ["user", "assistant", "tool"]


def plain(response: Any) -> dict[str, Any]:
    """Return all that a response says, but how long it took until it was written down."""
    told: dict[str, Any] = response.to_dict()
    del told["scaling"]["seconds"], told["completed_at"]
    return told


def test_a_response_is_kept(client: OpenAI) -> None:
    made = create(client)
    assert plain(client.responses.retrieve(made.id)) == plain(made)
    streamed = told(client)[-1].response
    assert plain(client.responses.retrieve(streamed.id)) == plain(streamed)
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError) as gone:
        create(client, previous_response_id=made.id)
    assert gone.value.param == "previous_response_id"
    assert gone.value.code == "previous_response_not_found"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": "think", "include": ["candidates", "message.output_text.logprobs"]},
        {"input": "look", "tools": [LOOK], "tool_choice": {"type": "function", "name": "look"}},
        {"max_output_tokens": 1, "metadata": {"a": "b"}, "reasoning": {"effort": "low"}},
        {"background": True},
    ],
)
def test_answers_are_as_the_document_says(server: Local, body: dict[str, Any]) -> None:
    told = server.http.post("/v1/responses", json={"input": ASK, "seed": 1, **body}).json()
    Response.model_validate(told)
    path = f"/v1/responses/{told['id']}"
    Response.model_validate(server.http.get(path).json())
    InputItems.model_validate(server.http.get(f"{path}/input_items").json())
    Deleted.model_validate(server.http.delete(path).json())


def test_a_response_that_is_not_to_be_kept(client: OpenAI) -> None:
    made = create(client, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_one_that_is_not_of_the_background_is_neither_followed_nor_cancelled(
    client: OpenAI,
) -> None:
    made = create(client)
    with pytest.raises(openai.BadRequestError) as followed:
        client.responses.retrieve(made.id, stream=True)
    assert followed.value.param == "stream"
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(made.id)


def test_every_parameter_of_openai_is_accepted_or_refused() -> None:
    known = {
        *ResponseCreateParamsNonStreaming.__annotations__,
        *ResponseCreateParamsStreaming.__annotations__,
    }
    fields = set(ResponseRequest.model_fields)
    assert known - fields == REFUSED.keys()
    assert fields - known == OURS | VLLM | {"seed", "stop"}
    assert fields >= IGNORED


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused_is_named(server: Local, name: str) -> None:
    assert refused(server, **{name: {"id": "x"}})["param"] == name


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": 7}, "input"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input.0.content.0.type",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"type": "reasoning", "content": []}]}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools.0.name"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"include": ["reasoning.encrypted_content"]}, "include.0"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_output_tokens": 10**6}, "max_output_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"background": True, "store": False}, "store"),
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"strategy": "none"}, "strategy"),
        ({"strategy": {"type": "best_of_n", "nn": 3}}, "strategy.nn"),
        ({"budget": {"max_tokens": 1}}, "budget.max_tokens"),
        ({"input": "word " * 40_000}, "input"),
    ],
)
def test_what_is_wrong_is_named(server: Local, body: dict[str, Any], param: str) -> None:
    assert refused(server, **body)["param"] == param
