"""`POST /v1/verify`: scores and ranks of given replies, paid and cancelled like everything else."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from server.engines.scripted import ScriptedEngine
from strategies.admission import Admission
from tests.server.judged import Away, judge, post, refused
from tests.server.local import QUESTION, Local, error_of, local
from verifiers.types import Prompt, Reply, Sampling

PATH = "/v1/verify"
MATH = {"name": "math", "reference": "42"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
STAGE = {"calls", "prompt_tokens", "cached_tokens", "completion_tokens", "exact"}


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    presets = {"checked": {"strategy": "best_of_n", "verifier": MATH, "budget": {"max_calls": 2}}}
    with local(ScriptedEngine(judge), presets=presets, limits={"max_samples": 8}) as served:
        served.state.verifiers["away"] = Away()  # type: ignore[index]
        yield served


def verified(server: Local, *candidates: Any, **body: Any) -> Any:
    told = {"messages": QUESTION, "candidates": candidates, "verifier": "judge", **body}
    response = post(server, PATH, **told)
    assert response.status_code == 200, response.text
    return response.json()


def worth(*grades: int) -> list[str]:
    return [f"This is reply {place}, worth {grade}." for place, grade in enumerate(grades)]


def test_scores_and_ranks(server: Local) -> None:
    body = verified(
        server, "\\boxed{41}", {"content": "\\boxed{42}"}, "no idea at all, sorry", "42.0",
        verifier=MATH,
    )  # fmt: skip
    assert body["object"] == "verification"
    assert (body["model"], body["verifier"]) == ("scripted", "math")
    assert [each["index"] for each in body["data"]] == [0, 1, 2, 3]
    assert [each["score"] for each in body["data"]][:2] == [0.0, 1.0]
    assert [each["rank"] for each in body["data"]][1::2] == [1, 1]
    assert body["data"][0]["rank"] == 3
    assert body["usage"]["total_tokens"] == 0
    assert body["scaling"]["usage"]["verify"]["calls"] == 4


def test_a_judge_is_paid_and_counted(server: Local) -> None:
    before = server.engine.log.copy()
    body = verified(server, *worth(3, 9, 0, 9), include=["candidates"])
    assert [each["score"] for each in body["data"]] == pytest.approx([3 / 9, 1, 0, 1])
    assert [each["rank"] for each in body["data"]] == [3, 1, 4, 1]
    assert not any(each["abstained"] for each in body["data"])
    assert all(each["confidence"] is None for each in body["data"])
    assert body["data"][1]["candidate"]["content"] == worth(3, 9)[1]
    made = server.engine.log - before
    assert made["started"] == made["finished"] == 4
    stages = body["scaling"]["usage"]
    assert stages["verify"].keys() == STAGE
    assert stages["verify"]["calls"] == 4
    assert stages["verify"]["exact"]
    assert stages["verify"]["completion_tokens"] == made["tokens"] == 4
    assert stages["sample"]["completion_tokens"] == stages["sample"]["calls"] == 0
    usage = body["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["prompt_tokens"] == stages["verify"]["prompt_tokens"] > 4 * 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4
    assert body["scaling"]["stopped_by"] is None
    assert body["scaling"]["seconds"] > 0


def test_what_is_not_paid_is_not_scored(server: Local) -> None:
    body = verified(server, *worth(1, 2, 3, 4), budget={"max_calls": 3})
    assert body["scaling"]["stopped_by"] == "calls"
    assert body["scaling"]["usage"]["verify"]["calls"] == 3
    [unpaid] = [each for each in body["data"] if each["abstained"]]
    assert (unpaid["score"], unpaid["rank"], unpaid["steps"]) == (None, None, [])
    assert sorted(each["rank"] for each in body["data"] if each["rank"]) == [1, 2, 3]
    free = verified(server, "42", "41", "40", verifier=MATH, budget={"max_calls": 2})
    assert [each["abstained"] for each in free["data"]] == [False, False, True]
    assert free["scaling"]["stopped_by"] == "calls"


def test_tokens_are_never_overrun() -> None:
    with local(ScriptedEngine(judge)) as server:
        body = verified(server, *worth(*[5] * 20), budget={"max_tokens": 16})
        assert server.engine.log["tokens"] == body["usage"]["completion_tokens"] == 16
        assert sum(each["abstained"] for each in body["data"]) == 4
        assert body["scaling"]["stopped_by"] == "tokens"


def test_a_preset_brings_its_verifier_and_budget(server: Local) -> None:
    told = {"messages": QUESTION, "candidates": ["42", "41", "42"], "model": "checked"}
    body = post(server, PATH, **told).json()
    assert body["verifier"] == "math"
    assert [each["score"] for each in body["data"]] == [1, 0, None]


def test_tool_calls_and_formats(server: Local) -> None:
    body = verified(
        server,
        {"tool_calls": [CALL]},
        {"content": "worth 4", "reasoning": "hm"},
        tools=[{"type": "function", "function": {"name": "look"}}],
        include=["candidates"],
    )
    assert body["data"][0]["candidate"]["finish_reason"] == "tool_calls"
    assert "look" in body["data"][0]["candidate"]["answer"]
    assert body["data"][1]["candidate"]["reasoning"] == "hm"
    assert body["data"][1]["score"] == pytest.approx(4 / 9)


async def test_given_replies_are_measured(server: Local) -> None:
    texts = ["so it is 42", "then 7 + 12 = 19 gives 19", "42"]
    body = verified(server, *texts, {"content": "42", "reasoning": "hm"}, verifier="logprob")
    for text, said in zip(texts, body["data"], strict=False):
        prompt = Prompt(tuple(QUESTION), reply=Reply(text))
        chunks = ScriptedEngine(judge).generate(prompt, Sampling(1, reply_logprobs=True))
        logprobs = [entry.logprob async for chunk in chunks for entry in chunk.logprobs]
        assert said["score"] == pytest.approx(math.exp(sum(logprobs) / len(logprobs)))
    assert body["data"][3]["abstained"]
    assert body["scaling"]["usage"]["verify"]["completion_tokens"] == 3


def test_what_an_engine_cannot_measure_is_refused() -> None:
    unable = replace(ScriptedEngine().capabilities, reply_logprobs=False)
    sure = {"sure": {"type": "logprob", "measure": "self_certainty"}}
    with local(ScriptedEngine(capabilities=unable), verifiers=sure) as server:
        told: dict[str, Any] = {"messages": QUESTION, "candidates": ["42"]}
        error = refused(server, PATH, **told)
        assert error["param"] == "verifier"
        assert "log-probabilities" in error["message"]
    with local(verifiers=sure) as server:
        assert "alternatives" in refused(server, PATH, **told, verifier="sure")["message"]


def test_no_score_before_the_deadline() -> None:
    with local(ScriptedEngine(judge, delay=0.5)) as server:
        told = {"messages": QUESTION, "candidates": worth(1, 2), "verifier": "judge"}
        response = post(server, PATH, **told, budget={"deadline_s": 0.1})
        assert response.status_code == 504
        assert error_of(response)["code"] == "deadline"
        assert server.engine.running == 0


def test_a_queue_is_waited_in() -> None:
    with local(ScriptedEngine(judge, delay=0.02), admission=Admission(slots=1)) as server:
        assert [each["rank"] for each in verified(server, *worth(1, 2, 3))["data"]] == [3, 2, 1]


def test_hanging_up_stops_the_work() -> None:
    with local(ScriptedEngine(judge, delay=1.0)) as server:
        told = {"messages": QUESTION, "candidates": worth(1, 2, 3), "verifier": "judge"}
        with closing(httpx.Client(base_url=server.url)) as client:
            with pytest.raises(httpx.ReadTimeout):
                client.post(PATH, json=told, timeout=0.3)
            assert server.engine.log["started"] == 3
        assert server.wait_until(lambda: server.engine.running == 0) < 0.9
        assert server.engine.log["aborted"] == 3


def test_a_verifier_that_is_away(server: Local) -> None:
    told = {"messages": QUESTION, "candidates": ["42"], "verifier": "away"}
    response = post(server, PATH, **told)
    assert response.status_code == 503
    assert error_of(response)["code"] == "verifier_unavailable"
    assert server.post().status_code == 200


def test_the_trace_and_the_numbers(tmp_path: Path) -> None:
    with local(ScriptedEngine(judge), traces=tmp_path / "traces.db") as server:
        body = verified(server, *worth(3, 4))
        trace = server.http.get(f"/v1/traces/{body['scaling']['trace_id']}").json()
        assert (trace["id"], trace["kind"], trace["verifier"]) == (body["id"], "verify", "judge")
        assert trace["questions"][0]["messages"] == QUESTION
        assert [each["content"] for each in trace["questions"][0]["candidates"]] == worth(3, 4)
        kinds = [event["kind"] for event in trace["events"]]
        assert kinds == ["sampled"] * 2 + ["scored"] * 2 + ["finished"]
        assert trace["events"][-1]["data"]["choices"] == ["0.0.1"]
        numbers = server.http.get("/metrics").text
        assert 'forethought_requests_total{status="200",strategy="verify"} 1.0' in numbers
        assert 'forethought_calls_total{stage="verify",strategy="verify"} 2.0' in numbers


BAD: list[tuple[dict[str, Any], str]] = [
    ({"candidates": []}, "candidates"),
    ({"candidates": None}, "candidates"),
    ({"candidates": "42"}, "candidates"),
    ({"candidates": ["42", 3]}, "candidates.1"),
    ({"candidates": ["42", {"text": "42"}]}, "candidates.1.text"),
    ({"candidates": [{"content": 3}]}, "candidates.0.content"),
    ({"candidates": ["42", {}]}, "candidates.1.content"),
    ({"candidates": [{"tool_calls": [{"id": "c"}]}]}, "candidates.0.tool_calls.0.type"),
    ({"candidates": [{"content": "4", "finish_reason": "x"}]}, "candidates.0.finish_reason"),
    ({"candidates": ["42"] * 9}, "candidates"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "boss", "content": "x"}]}, "messages.0.role"),
    ({"tools": [{"type": "function", "function": {"name": "a"}}] * 2}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"verifier": "nope"}, "verifier"),
    ({"verifier": 3}, "verifier"),
    ({"verifier": "math"}, "verifier.reference"),
    ({"verifier": {"name": "math", "reference": "42", "x": 1}}, "verifier.x"),
    ({"verifier": {"x": 1}}, "verifier.name"),
    ({"budget": {"max_tokens": 15}}, "budget.max_tokens"),
    ({"budget": {"max_calls": 1025}}, "budget.max_calls"),
    ({"budget": {"deadline_s": 601}}, "budget.deadline_s"),
    ({"seed": 0.5}, "seed"),
    ({"include": ["x"]}, "include.0"),
    ({"strategy": "best_of_n"}, "strategy"),
    ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
]


@pytest.mark.parametrize(("body", "param"), BAD)
def test_bad_bodies_name_their_field(server: Local, body: dict[str, Any], param: str) -> None:
    told = {"messages": QUESTION, "candidates": ["42"], "verifier": "judge", **body}
    assert refused(server, PATH, **told)["param"] == param


def test_an_unknown_model(server: Local) -> None:
    told = {"messages": QUESTION, "candidates": ["42"], "model": "nope"}
    assert refused(server, PATH, 404, **told)["param"] == "model"


def test_verifiers_are_listed_with_all_that_a_client_needs(server: Local) -> None:
    listed = server.http.get("/v1/verifiers").json()["data"]
    assert {each["name"] for each in listed} == set(server.state.verifiers)
    for each in listed:
        assert each.keys() >= {"name", "type", "summary", "paper", "schema", "defaults", "needs"}
        assert each.keys() >= {"available", "reason", "calibrated"}
        assert each["calibrated"] is False
    assert {each["type"] for each in listed if each["name"] == "judge"} == {"judge"}


def test_the_document_holds_the_new_routes(server: Local) -> None:
    document = server.http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path in (PATH, "/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/score", "/v1/replay"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        reference = content["application/json"]["schema"]["$ref"]
        schema = {"$ref": reference, "components": document["components"]}
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schemas[reference.rpartition("/")[2]]["additionalProperties"] is False
    valid = {"messages": QUESTION, "candidates": [{"content": "42"}], "verifier": "judge"}
    schema = {"$ref": "#/components/schemas/VerifyRequest", "components": document["components"]}
    jsonschema.validate(valid, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**valid, "candidates": []}, schema)


async def test_verifications_side_by_side(server: Local) -> None:
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
        asyncio.TaskGroup() as g,
    ):
        tasks = [
            g.create_task(
                client.post(
                    PATH,
                    json={"messages": QUESTION, "candidates": worth(n), "verifier": "judge"},
                )
            )
            for n in range(10)
        ]
    scores = [task.result().json()["data"][0]["score"] for task in tasks]
    assert scores == pytest.approx([n / 9 for n in range(10)])
