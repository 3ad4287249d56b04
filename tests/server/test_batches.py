"""`/v1/batches` with the official client: every accepted line is answered, once, as it asked."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from server.engines.scripted import ScriptedEngine
from strategies.admission import Admission
from tests.server.local import QUESTION, Local, local
from verifiers.errors import EngineUnavailable, Overloaded
from verifiers.types import Prompt, Sampling

CHAT: Final = "/v1/chat/completions"
QUICK = {"poll_s": 0.02, "backoff_s": 0.02}
ENDED = ("completed", "failed", "expired", "cancelled")


def echo(prompt: Prompt, sampling: Sampling, index: int) -> str:
    return f"You said: {prompt.messages[-1]['content']}"


def say(text: str, **body: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **body}


def line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    whole = say(custom_id) | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": whole}


@contextmanager
def client_of(server: Local) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    with local(ScriptedEngine(echo), batches=QUICK) as served:
        yield served


@pytest.fixture(scope="module")
def client(server: Local) -> Iterator[OpenAI]:
    with client_of(server) as opened:
        yield opened


def create(client: OpenAI, lines: Sequence[Any], **options: Any) -> Batch:
    rows = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines]
    file = client.files.create(file=("in.jsonl", b"\n".join(rows)), purpose="batch")
    asked: dict[str, Any] = {"endpoint": CHAT, "completion_window": "24h", **options}
    return client.batches.create(input_file_id=file.id, **asked)


def ended(client: OpenAI, batch: Batch, seconds: float = 20) -> Batch:
    until = time.monotonic() + seconds
    while batch.status not in ENDED:
        assert time.monotonic() < until, batch
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def rows(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    """Read a file of a batch: its lines by their custom id, each of which comes once."""
    if file_id is None:
        return {}
    read = [json.loads(row) for row in client.files.content(file_id).text.splitlines()]
    found = {row["custom_id"]: row for row in read}
    assert len(found) == len(read)
    return found


def test_lines_of_any_strategy_are_answered(client: OpenAI) -> None:
    made = create(
        client,
        [
            line("plain"),
            line("voted", strategy={"type": "self_consistency", "n": 3}),
            line("in the path", url="/v1/best_of_n/chat/completions", strategy={"n": 2}),
            line("two", n=2),
        ],
        metadata={"night": "first"},
    )
    assert (made.object, made.status, made.endpoint) == ("batch", "validating", CHAT)
    assert made.expires_at == made.created_at + 86_400
    batch = ended(client, made)
    assert batch.status == "completed", batch
    assert batch.metadata == {"night": "first"}
    assert (batch.errors, batch.error_file_id) == (None, None)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 4, "completed": 4, "failed": 0}
    times = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    reached = [each for each in times if each is not None]
    assert len(reached) == 4
    assert reached == sorted(reached)
    answers = rows(client, batch.output_file_id)
    assert [*answers] == ["plain", "voted", "in the path", "two"]
    for name, row in answers.items():
        assert row["error"] is None
        assert row["response"]["status_code"] == 200
        assert row["response"]["request_id"].startswith("batch_req_")
        for choice in row["response"]["body"]["choices"]:
            assert choice["message"]["content"] == f"You said: {name}"
    bodies = {name: row["response"]["body"] for name, row in answers.items()}
    assert [bodies[name]["scaling"]["strategy"] for name in answers] == [
        "single",
        "self_consistency",
        "best_of_n",
        "single",
    ]
    assert len(bodies["two"]["choices"]) == 2
    assert batch.usage is not None
    spent = [each["usage"] for each in bodies.values()]
    assert batch.usage.input_tokens == sum(each["prompt_tokens"] for each in spent)
    assert batch.usage.output_tokens == sum(each["completion_tokens"] for each in spent)
    assert batch.usage.total_tokens == sum(each["total_tokens"] for each in spent)
    told = client.files.retrieve(batch.output_file_id or "")
    assert (told.purpose, told.filename) == ("batch_output", f"{batch.id}_output.jsonl")


def test_other_endpoints(client: OpenAI) -> None:
    text = {"custom_id": "t", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Go"}}
    batch = ended(client, create(client, [text], endpoint="/v1/completions"))
    [row] = rows(client, batch.output_file_id).values()
    assert row["response"]["body"]["object"] == "text_completion"
    assert row["response"]["body"]["choices"][0]["text"]
    asked = {"custom_id": "r", "method": "POST", "body": {"input": "Go", "model": "scripted"}}
    plain = asked | {"url": "/v1/responses"}
    named = asked | {"url": "/v1/best_of_n/responses", "custom_id": "b"}
    batch = ended(client, create(client, [plain, named], endpoint="/v1/responses"))
    answers = rows(client, batch.output_file_id)
    assert [answers[name]["response"]["body"]["status"] for name in ("r", "b")] == 2 * ["completed"]
    assert batch.usage is not None
    assert batch.usage.output_tokens == sum(
        row["response"]["body"]["usage"]["output_tokens"] for row in answers.values()
    )
    assert batch.usage.output_tokens > 0


def test_a_lines_own_error_is_its_result(server: Local, client: OpenAI) -> None:
    started = server.engine.log["started"]
    made = create(
        client,
        [
            line("good"),
            line("hot", temperature=9),
            line("model", model="no-such"),
            line("streamed", stream=True),
            line("strategy", strategy={"type": "best_of_n", "nn": 2}),
        ],
    )
    batch = ended(client, made)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 5, "completed": 1, "failed": 4}
    assert [*rows(client, batch.output_file_id)] == ["good"]
    errors = rows(client, batch.error_file_id)
    told = {
        name: (row["response"]["status_code"], row["response"]["body"]["error"]["param"])
        for name, row in errors.items()
    }
    assert told == {
        "hot": (400, "temperature"),
        "model": (404, "model"),
        "streamed": (400, "stream"),
        "strategy": (400, "strategy.nn"),
    }
    assert server.engine.log["started"] == started + 1


def test_an_input_that_is_wrong_fails_whole(server: Local, client: OpenAI) -> None:
    started = server.engine.log["started"]
    made = create(client, [line("a"), b"{", line("a"), line("b", url="/v1/embeddings")])
    batch = ended(client, made)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert [(each.code, each.line, each.param) for each in batch.errors.data or ()] == [
        ("invalid_json_line", 2, None),
        ("duplicate_custom_id", 3, "custom_id"),
        ("mismatched_url", 4, "url"),
    ]
    assert server.engine.log["started"] == started


@pytest.mark.parametrize(
    ("changed", "status", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint"),
        ({"endpoint": "/v1/none_such/chat/completions"}, 400, "endpoint"),
        ({"completion_window": "soon"}, 400, "completion_window"),
        ({"metadata": {"a": "b" * 513}}, 400, "metadata.a"),
        ({"input_file_id": "file-none"}, 404, "input_file_id"),
        ({"extra_body": {"priority": 1}}, 400, "priority"),
    ],
)
def test_a_wrong_request_is_refused_by_its_field(
    client: OpenAI, changed: dict[str, Any], status: int, param: str
) -> None:
    file = client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"} | changed
    with pytest.raises(openai.APIStatusError) as refused:
        client.batches.create(**asked)
    assert (refused.value.status_code, refused.value.param) == (status, param)


def test_an_answer_is_no_input(client: OpenAI) -> None:
    batch = ended(client, create(client, [line("a")]))
    assert batch.output_file_id is not None
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(
            input_file_id=batch.output_file_id, endpoint=CHAT, completion_window="24h"
        )
    assert refused.value.param == "input_file_id"


def test_batches_are_listed_by_pages(client: OpenAI) -> None:
    made = [create(client, [line("a")]).id for _ in range(3)]
    page = client.batches.list(limit=2)
    assert ([each.id for each in page.data], page.has_more) == (made[:0:-1], True)
    listed = [each.id for each in client.batches.list(limit=2)]
    assert listed[:3] == made[::-1]
    assert len(set(listed)) == len(listed)
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")


def test_progress_is_told_and_cancelling_keeps_what_was_done() -> None:
    engine = ScriptedEngine(echo, delay=0.02)
    with (
        local(engine, admission=Admission(slots=4), batches=QUICK) as server,
        client_of(server) as client,
    ):
        wrong = [line(f"hot {number}", temperature=9) for number in range(3)]
        made = create(client, [*wrong, *(line(str(number)) for number in range(200))])
        seen: list[tuple[int, int]] = []
        while not seen or seen[-1][0] < 8:
            counts = client.batches.retrieve(made.id).request_counts
            assert counts is not None
            seen.append((counts.completed, counts.failed))
            time.sleep(0.02)
        assert seen == sorted(seen)
        assert seen[-1][1] == 3
        asked = client.batches.cancel(made.id)
        assert (asked.status, asked.cancelling_at is not None) == ("cancelling", True)
        batch = ended(client, client.batches.cancel(made.id))  # twice is once
        assert (batch.status, batch.cancelled_at is not None) == ("cancelled", True)
        answers, errors = rows(client, batch.output_file_id), rows(client, batch.error_file_id)
        assert 8 <= len(answers) < 60
        assert answers.keys() | errors.keys() == {each["custom_id"] for each in wrong} | {
            str(number) for number in range(200)
        }
        codes = {row["error"]["code"] for row in errors.values() if row["error"]}
        assert codes == {"batch_cancelled"}
        assert batch.request_counts is not None
        assert batch.request_counts.completed == len(answers) == engine.log["finished"]
        assert (engine.log["aborted"], engine.running) == (0, 0)
        assert client.batches.cancel(made.id) == batch
        other = ended(client, create(client, [line("a")]))
        with pytest.raises(openai.BadRequestError):
            client.batches.cancel(other.id)


def test_a_window_that_ends_leaves_what_was_done() -> None:
    engine = ScriptedEngine(echo, delay=0.05)
    with (
        local(engine, admission=Admission(slots=4), batches=QUICK) as server,
        client_of(server) as client,
    ):
        made = create(client, [line(str(number)) for number in range(200)], completion_window="1s")
        batch = ended(client, made)
        assert (batch.status, batch.expired_at is not None) == ("expired", True)
        errors = rows(client, batch.error_file_id)
        assert {row["error"]["code"] for row in errors.values()} == {"batch_expired"}
        answers = rows(client, batch.output_file_id)
        assert len(answers) + len(errors) == 200
        assert len(answers) == engine.log["finished"] > 0


def test_an_engine_that_is_away_is_tried_again() -> None:
    failures = 5

    def fail(prompt: Prompt, index: int) -> Exception | None:
        nonlocal failures
        failures -= 1
        return EngineUnavailable("it is away") if failures >= 0 else None

    engine = ScriptedEngine(echo, fail=fail)
    with local(engine, batches=QUICK) as server, client_of(server) as client:
        batch = ended(client, create(client, [line(str(number)) for number in range(10)]))
        assert batch.status == "completed"
        assert len(rows(client, batch.output_file_id)) == 10
        assert (engine.log["failed"], engine.log["finished"]) == (5, 10)


def test_a_server_that_has_no_room_costs_no_attempt() -> None:
    refusals = 20

    def fail(prompt: Prompt, index: int) -> Exception | None:
        nonlocal refusals
        refusals -= 1
        return Overloaded("full", retry_after=0) if refusals >= 0 else None

    engine = ScriptedEngine(echo, fail=fail)
    with local(engine, batches={**QUICK, "attempts": 2}) as server, client_of(server) as client:
        batch = ended(client, create(client, [line("a")]))
        assert (batch.status, batch.error_file_id) == ("completed", None)
        assert engine.log["failed"] == 20


def test_clients_who_wait_come_before_lines() -> None:
    engine = ScriptedEngine(echo, delay=0.05)
    admission = Admission(slots=4)
    with (
        local(engine, admission=admission, batches=QUICK) as server,
        client_of(server) as client,
    ):
        made = create(client, [line(str(number)) for number in range(100)])
        server.wait_until(lambda: admission.running == 2)
        for _ in range(5):
            start = time.monotonic()
            client.chat.completions.create(model="scripted", messages=QUESTION)  # type: ignore[arg-type]
            assert time.monotonic() - start < 2
            assert admission.running <= 2
        client.batches.cancel(made.id)
        ended(client, made)
