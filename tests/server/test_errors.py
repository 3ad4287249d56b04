"""Every bad input is a 4xx that names its field and costs no work; every error is mapped."""

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from server.engines.scripted import ScriptedEngine
from server.errors import error_object, error_response, error_status
from strategies.admission import Admission
from strategies.budget import Limit
from tests.server.local import QUESTION, Local, error_of, local
from verifiers.errors import (
    BadRequest,
    BudgetSpent,
    DeadlinePassed,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    ForethoughtError,
    Overloaded,
)

STATUSES = {400, 401, 403, 404, 408, 413, 414, 415, 429, 431, 502, 503, 504}


FAR_JUDGE: dict[str, Any] = {
    "engines": {"far": {"engine": "scripted"}},
    "verifiers": {"far": {"type": "judge", "engine": "far"}},
}


def tree(cls: type[ForethoughtError] = ForethoughtError) -> Iterator[type[ForethoughtError]]:
    for child in cls.__subclasses__():
        yield child
        yield from tree(child)


@pytest.mark.parametrize("cls", sorted(set(tree()), key=lambda cls: cls.__name__))
def test_every_error_is_mapped(cls: type[ForethoughtError]) -> None:
    for limit in Limit if cls is BudgetSpent else ["what happened"]:
        error = cls(limit)
        assert error_status(error) in STATUSES
        told = error_object(error)["error"]
        assert told["message"]
        assert told["type"] in {
            "invalid_request_error",
            "rate_limit_error",
            "upstream_error",
            "timeout_error",
            "server_error",
        }


def test_spent_work_is_not_retried_in_silence() -> None:
    for error in (Overloaded("full", retry_after=7), EngineUnavailable("gone")):
        fresh, spent = error_response(error), error_response(error, spent=True)
        assert int(fresh.headers["retry-after"]) > 0
        assert "x-should-retry" not in fresh.headers
        assert spent.headers["x-should-retry"] == "false"
    assert error_response(Overloaded("full", retry_after=7)).headers["retry-after"] == "7"


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("unknown strategy", {"strategy": "nope"}, "strategy"),
    ("unknown strategy", {"strategy": {"type": "nope", "n": 2}}, "strategy"),
    ("a type that is no name", {"strategy": {"type": ["single"]}}, "strategy.type"),
    ("a type that is null", {"strategy": {"type": None}}, "strategy.type"),
    ("no type", {"strategy": {"n": 4}}, "strategy.type"),
    ("misspelt parameter", {"strategy": {"type": "best_of_n", "nn": 4}}, "strategy.nn"),
    ("parameter of another", {"strategy": {"type": "single", "n": 4}}, "strategy.n"),
    ("wrong type", {"strategy": {"type": "best_of_n", "n": "4"}}, "strategy.n"),
    ("wrong type", {"strategy": 3}, "strategy"),
    ("out of range", {"strategy": {"type": "best_of_n", "n": 0}}, "strategy.n"),
    ("out of range", {"temperature": -1}, "temperature"),
    ("over the cap", {"strategy": {"type": "best_of_n", "n": 257}}, "strategy.n"),
    ("over the cap", {"n": 257}, "n"),
    ("over the cap", {"budget": {"max_tokens": 65_537}}, "budget.max_tokens"),
    ("over the cap", {"budget": {"max_calls": 1025}}, "budget.max_calls"),
    ("over the cap", {"budget": {"deadline_s": 601}}, "budget.deadline_s"),
    ("over the cap", {"max_completion_tokens": 32_769}, "max_completion_tokens"),
    ("over the cap", {"max_tokens": 32_769}, "max_tokens"),
    ("more answers than samples", {"strategy": {"type": "best_of_n", "n": 2}, "n": 3}, "n"),
    ("budget too small", {"budget": {"max_tokens": 15}}, "budget.max_tokens"),
    ("budget too small", {"budget": {"max_calls": 0}}, "budget.max_calls"),
    ("budget too small", {"budget": {"deadline_s": 0}}, "budget.deadline_s"),
    ("unknown verifier", {"strategy": "best_of_n", "verifier": "nope"}, "verifier"),
    ("unknown verifier", {"strategy": "best_of_n", "verifier": {"name": []}}, "verifier"),
    ("nameless verifier", {"strategy": "best_of_n", "verifier": {"x": 1}}, "verifier.name"),
    ("no reference", {"strategy": "best_of_n", "verifier": "math"}, "verifier.reference"),
    (
        "verifier field",
        {"strategy": "best_of_n", "verifier": {"name": "logprob", "x": 1}},
        "verifier.x",
    ),
    ("idle verifier", {"strategy": "single", "verifier": "logprob"}, "verifier"),
    ("empty messages", {"messages": []}, "messages"),
    ("bad role", {"messages": [{"role": "boss", "content": "x"}]}, "messages.0.role"),
    ("empty reply", {"messages": [{"role": "assistant"}]}, "messages.0.content"),
    ("too long", {"messages": [{"role": "user", "content": "x " * 32_768}]}, "messages"),
    ("too many messages", {"messages": QUESTION * 1025}, "messages"),
    ("audio", {"audio": {"voice": "x", "format": "wav"}}, "audio"),
    ("template", {"chat_template": "{{ 1 }}"}, "chat_template"),
    (
        "template",
        {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
        "chat_template_kwargs.chat_template",
    ),
    ("choice without tools", {"tool_choice": "required"}, "tool_choice"),
    ("top without logprobs", {"top_logprobs": 3}, "top_logprobs"),
    ("options without stream", {"stream_options": {"include_usage": True}}, "stream_options"),
    ("least over most", {"min_tokens": 10, "max_tokens": 5}, "min_tokens"),
]


@pytest.mark.parametrize(("what", "body", "param"), BAD)
def test_bad_input_names_its_field_and_costs_nothing(
    server: Local, what: str, body: dict[str, Any], param: str
) -> None:
    told = server.refused(400, **body)
    assert told["type"] == "invalid_request_error"
    assert told["param"] == param
    told = server.refused(400, **body, **({} if "stream_options" in body else {"stream": True}))
    assert told["param"] == param


def test_unknown_names_in_path_and_model_are_not_found(server: Local) -> None:
    assert server.refused(404, "/v1/nope/chat/completions")["param"] == "strategy"
    told = server.refused(404, model="nope")
    assert (told["param"], told["code"]) == ("model", "model_not_found")


def test_two_strategies_in_one_request(server: Local) -> None:
    path = "/v1/best_of_n/chat/completions"
    assert server.refused(400, path, strategy="self_consistency")["param"] == "strategy"
    assert server.post(path, strategy={"n": 2}).json()["scaling"]["parameters"]["n"] == 2


def test_a_long_prompt_has_openais_code(server: Local) -> None:
    told = server.refused(messages=[{"role": "user", "content": "x " * 40_000}])
    assert told["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("text/plain", 415), (None, 415), ("application/json; charset=utf-8", 400)],
)
def test_content_type_and_malformed_json(
    server: Local, content_type: str | None, status: int
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = server.http.post("/v1/chat/completions", content=b"{", headers=headers)
    assert response.status_code == status
    assert error_of(response)["type"] == "invalid_request_error"


def test_a_body_over_the_limit_is_refused_by_its_length(server: Local) -> None:
    response = server.http.post(
        "/v1/chat/completions",
        content=b" " * 5_000_000,
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 413
    error_of(response)


def test_a_chunked_body_over_the_limit_is_refused_while_it_comes() -> None:
    with local(limits={"body_bytes": 2048}) as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
            raw.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            raw.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
            raw.sendall(b"800\r\n" + b" " * 2048 + b"\r\n")  # and never an end
            assert raw.recv(4096).startswith(b"HTTP/1.1 413")
        assert server.post().status_code == 200


def test_wrong_paths_and_methods(server: Local) -> None:
    assert error_of(server.http.get("/v1/nothing"))["code"] == "not_found"
    response = server.http.get("/v1/chat/completions")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    error_of(response)


def test_errors_are_logged_without_the_prompt(
    server: Local, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "correct horse battery staple"
    bodies: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": secret, "x": secret}]},
        {"messages": [{"role": "user", "content": secret}], "strategy": "nope"},
        {"messages": [{"role": secret, "content": secret}]},
        {"messages": [{"role": "user", "content": secret}]},
    ]
    with caplog.at_level("DEBUG"):
        for body in bodies:
            server.http.post("/v1/chat/completions", json=body)
    logged = [record for record in caplog.records if record.name.startswith("forethought")]
    assert len(logged) >= 4 + 3
    assert secret not in caplog.text


def test_the_engines_errors_keep_their_status() -> None:
    for error, status in [
        (EngineError("bad"), 502),
        (EngineUnavailable("gone"), 503),
        (EngineTimeout("late"), 504),
        (BadRequest("no", param="messages"), 400),
    ]:
        with local(ScriptedEngine(fail=lambda prompt, index, error=error: error)) as server:
            for stream in (False, True):
                response = server.post(stream=stream)
                assert response.status_code == status
                assert error_of(response)["message"] == error.message
                # A time-out may have cost tokens that nobody counted.
                assert ("x-should-retry" in response.headers) is (status == 504)
                assert ("retry-after" in response.headers) is (status == 503)


def test_an_error_after_work_forbids_the_retry() -> None:
    judge = ScriptedEngine(fail=lambda prompt, index: EngineUnavailable("gone"))
    with local(others={"far": judge}, **FAR_JUDGE) as server:
        response = server.post(strategy="best_of_n", verifier="far")
        assert response.status_code == 503
        assert response.headers["x-should-retry"] == "false"
        assert server.engine.log["finished"] == 8


def test_no_answer_at_the_deadline() -> None:
    with local(ScriptedEngine(delay=30)) as server:
        response = server.post(budget={"deadline_s": 0.2})
        assert response.status_code == 504
        assert error_of(response)["code"] == DeadlinePassed.code
        server.wait_until(lambda: server.engine.running == 0)


def test_a_full_queue() -> None:
    admission = Admission(slots=1, queue_limit=1)
    with local(ScriptedEngine(delay=0.05), admission=admission) as server:
        threads = [threading.Thread(target=server.post) for _ in range(2)]
        for thread in threads:
            thread.start()
        server.wait_until(lambda: admission.queued == 1)
        for stream in (False, True):
            response = server.post(stream=stream)
            assert response.status_code == 429
            assert error_of(response)["type"] == "rate_limit_error"
            assert int(response.headers["retry-after"]) >= 1
        for thread in threads:
            thread.join()


def test_a_fault_of_ours_tells_nothing() -> None:
    def script(prompt: Any, sampling: Any, index: int) -> str:
        raise RuntimeError("a secret of the machine")

    with local(ScriptedEngine(script)) as server:
        response = server.post()
        assert response.status_code == 500
        assert error_of(response)["type"] == "server_error"
        assert "secret" not in response.text


def test_an_error_mid_stream_is_a_frame() -> None:
    judge = ScriptedEngine(fail=lambda prompt, index: EngineError("the judge is ill"))
    with local(others={"far": judge}, **FAR_JUDGE) as server:
        body = {
            "messages": QUESTION,
            "strategy": "best_of_n",
            "verifier": "far",
            "stream": True,
            "stream_options": {"include_progress": True},
        }
        with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200
            frames = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert frames[-1] == "data: [DONE]"
    assert json.loads(frames[-2][6:])["error"]["message"] == "the judge is ill"


def test_a_client_that_leaves_while_it_sends(server: Local) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
    assert server.post().status_code == 200
