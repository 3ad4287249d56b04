"""Replay: what it says would have been chosen is what the strategies choose, through the API."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.engines.scripted import ScriptedEngine
from server.engines.scripts import arithmetic
from tests.server.judged import post, refused
from tests.server.local import QUESTION, Local, local
from verifiers.types import Message, Prompt, Sampling

PATH = "/v1/replay"
SIZES = [1, 2, 3, 5, 8, 16]
TOOLS = [{"type": "function", "function": {"name": "look"}}]
CHOOSERS = {
    "majority": {"type": "self_consistency"},
    "weighted": {"type": "weighted_vote"},
    "max": {"type": "best_of_n"},
    "most_likely": {"type": "best_of_n"},
    "confidence": {"type": "confidence_vote"},
}


def script(prompt: Prompt, sampling: Sampling, index: int) -> str | Message:
    """Do sums; think first where asked to; answer in JSON where that is asked for."""
    said = arithmetic(prompt, sampling, index)
    if prompt.response_format is not None:
        return json.dumps({"value": len(str(said)) % 3})
    if isinstance(said, str) and "think" in str(prompt.messages[-1]["content"]):
        decided = len(said) % 3 > 0  # what is only thought is no answer
        spoken = said.rpartition(" ")[2] if decided else "I would rather not say what that may be."
        return Message(spoken, f"{said} Hm.")
    return said


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    traces = tmp_path_factory.mktemp("replay") / "traces.db"
    with local(ScriptedEngine(script), traces=traces) as served:
        yield served


def replayed(server: Local, **body: Any) -> dict[tuple[str, int], Any]:
    before = server.engine.log.copy()
    response = post(server, PATH, **body)
    assert response.status_code == 200, response.text
    assert server.engine.log == before  # nothing was generated
    rows = response.json()["data"]
    assert len({(row["selection"], row["k"]) for row in rows}) == len(rows)
    return {(row["selection"], row["k"]): row for row in rows}


def answered(server: Local, strategy: dict[str, Any], **body: Any) -> Any:
    response = server.post(strategy=strategy, include=["candidates"], **body)
    assert response.status_code == 200, response.text
    return response.json()


ASKED: dict[str, dict[str, Any]] = {
    "numbers": {},
    "thoughts": {"messages": [{"role": "user", "content": "think: 6 times 7?"}]},
    "json": {"response_format": {"type": "json_object"}},
    "tools": {"tools": TOOLS, "tool_choice": "required"},
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(("judge", "seed"), [("logprob", 1), ("pattern", 2)])
def test_it_equals_what_the_strategies_answer(
    server: Local, asked: str, judge: str, seed: int
) -> None:
    verifier: Any = judge if judge == "logprob" else {"name": "regex", "pattern": "2|x.: 1"}
    told = {**ASKED[asked], "seed": seed}
    whole = answered(server, {"type": "best_of_n", "n": 16}, verifier=verifier, **told)
    assert whole["scaling"]["stopped_by"] is None
    candidates = whole["scaling"]["candidates"]
    stored = replayed(server, trace=whole["scaling"]["trace_id"], k=SIZES)
    given = replayed(
        server, candidates=candidates, k=SIZES, response_format=told.get("response_format")
    )
    for row in stored.values():
        again = given[row["selection"], row["k"]]
        assert row == again
    for selection, strategy in CHOOSERS.items():
        for size in SIZES:
            scored = {"verifier": verifier} if selection in ("weighted", "max") else {}
            choice = answered(server, {**strategy, "n": size}, **told, **scored)
            row = stored[selection, size]
            assert row["strategy"] == strategy["type"]
            assert row["answer"] == choice["scaling"]["answer"]
            assert row["agreement"] == choice["scaling"]["agreement"]
            assert row["abstentions"] == choice["scaling"]["abstentions"]
            chosen, message = candidates[row["index"]], choice["choices"][0]["message"]
            assert chosen["content"] == (message["content"] or "")
            assert chosen["tool_calls"] == message.get("tool_calls", [])
            assert row["tokens"] == choice["scaling"]["usage"]["sample"]["completion_tokens"]
    single = answered(server, {"type": "single"}, **told)
    assert stored["first", 1]["index"] == 0
    assert stored["first", 1]["answer"] == single["scaling"]["answer"]


def test_the_trace_of_another_strategy(server: Local) -> None:
    whole = answered(server, {"type": "self_consistency", "n": 6}, seed=3)
    rows = replayed(server, trace=whole["scaling"]["trace_id"])
    assert {size for _, size in rows} == {1, 2, 4, 6}
    assert ("max", 6) not in rows  # nothing was scored
    assert rows["majority", 6]["answer"] == whole["scaling"]["answer"]
    assert rows["most_likely", 6]["agreement"] is None


def test_scores_that_compare_hold_for_all_replies_alone(server: Local) -> None:
    told = {"verifier": "agreement", "seed": 5}
    whole = answered(server, {"type": "best_of_n", "n": 4}, **told)
    rows = replayed(server, trace=whole["scaling"]["trace_id"])
    assert ("max", 4) in rows
    assert ("max", 2) not in rows
    assert rows["max", 4]["answer"] == whole["scaling"]["answer"]


def test_chance_and_foresight(server: Local) -> None:
    replies = [
        {"content": "\\boxed{7}", "tokens": 10, "score": 0.9, "correct": False},
        {"content": "\\boxed{42}", "tokens": 20, "score": 0.5, "correct": True},
        {"content": "\\boxed{42.0}", "tokens": 30, "score": 0.6, "correct": True},
        {"content": "\\boxed{12", "finish_reason": None, "tokens": 40, "correct": False},
    ]
    rows = replayed(server, candidates=replies, k=[1, 3, 4])
    assert rows["majority", 3]["id"] == "0.0.2"  # a tie falls to the earlier text
    assert rows["majority", 3]["agreement"] == pytest.approx(2 / 3)
    assert rows["weighted", 4]["answer"] == "42"
    assert rows["weighted", 4]["agreement"] == pytest.approx(1.1 / 2)
    assert rows["weighted", 4]["id"] == "0.0.2"
    assert (rows["max", 4]["index"], rows["max", 4]["correct"]) == (0, 0.0)
    assert rows["majority", 4]["abstentions"] == 1
    assert [rows["majority", size]["tokens"] for size in (1, 3, 4)] == [10, 60, 100]
    assert rows["random", 4]["correct"] == pytest.approx(2 / 3)  # of the finished ones
    assert [rows["oracle", size]["correct"] for size in (1, 3)] == [0.0, 1.0]
    assert rows["oracle", 1]["index"] is None
    assert not any(selection == "confidence" for selection, _ in rows)


def test_bare_texts(server: Local) -> None:
    rows = replayed(server, candidates=["42", "7", "42"])
    assert {size for _, size in rows} == {1, 2, 3}
    assert rows["majority", 3]["answer"] == "42"
    assert {selection for selection, _ in rows} == {"first", "majority"}


def test_traces_without_replies_and_no_traces(server: Local) -> None:
    body = {
        "messages": QUESTION,
        "candidates": ["42"],
        "verifier": {"name": "math", "reference": "42"},
    }
    verification = post(server, "/v1/verify", **body).json()
    error = refused(server, PATH, trace=verification["id"])
    assert error["param"] == "trace"
    assert refused(server, PATH, 404, trace="nope")["param"] == "trace"
    with local() as without:
        assert refused(without, PATH, 404, trace="nope")["param"] == "trace"


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "candidates"),
    ({"trace": ""}, "trace"),
    ({"trace": "x", "candidates": ["42"]}, "candidates"),
    ({"trace": "x", "messages": QUESTION}, "messages"),
    ({"candidates": []}, "candidates"),
    ({"candidates": ["42", {}]}, "candidates.1.content"),
    ({"candidates": [{"content": "42", "tokens": -1}]}, "candidates.0.tokens"),
    ({"candidates": [{"content": "42", "mean_logprob": 1}]}, "candidates.0.mean_logprob"),
    ({"candidates": [{"content": "42", "score": "1"}]}, "candidates.0.score"),
    ({"candidates": [{"content": "42", "id": "a"}] * 2}, "candidates.1.id"),
    ({"candidates": ["42"], "k": []}, "k"),
    ({"candidates": ["42"], "k": [0]}, "k.0"),
    ({"candidates": ["42"], "k": [1, 2]}, "k.1"),
    ({"candidates": ["42"], "strategy": "x"}, "strategy"),
    ({"candidates": ["42"] * 257}, "candidates"),
]


@pytest.mark.parametrize(("body", "param"), BAD)
def test_bad_bodies_name_their_field(server: Local, body: dict[str, Any], param: str) -> None:
    assert refused(server, PATH, **body)["param"] == param


def test_a_file_of_traces_outlives_the_server(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with local(ScriptedEngine(script), traces=path) as server:
        whole = answered(server, {"type": "self_consistency", "n": 3}, seed=8)
    with local(ScriptedEngine(script), traces=path) as server:
        rows = replayed(server, trace=whole["scaling"]["trace_id"])
    assert rows["majority", 3]["answer"] == whole["scaling"]["answer"]
