"""Reranking and scoring in the shapes of Jina, Cohere and vLLM."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from server.engines.scripted import ScriptedEngine
from tests.server.judged import judge, post, refused
from tests.server.local import Local, local

DOCUMENTS = ["the first, worth 2", "the second, worth 8", "the third, worth 5"]
ASKED: dict[str, Any] = {"model": "judge", "query": "Which?", "documents": DOCUMENTS}


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    settings: dict[str, Any] = {"limits": {"max_samples": 8}, "default_verifier": "judge"}
    with local(ScriptedEngine(judge), **settings) as served:
        yield served


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_the_best_comes_first(server: Local, path: str) -> None:
    response = post(server, path, **ASKED)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["model"] == "judge"
    assert [each["index"] for each in body["results"]] == [1, 2, 0]
    assert [each["relevance_score"] for each in body["results"]] == pytest.approx(
        [8 / 9, 5 / 9, 2 / 9]
    )
    for each in body["results"]:
        assert each.keys() == {"index", "document", "relevance_score"}
        assert each["document"] == {"text": DOCUMENTS[each["index"]]}
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3
    assert body["scaling"]["usage"]["verify"]["exact"]


def test_what_clients_may_say(server: Local) -> None:
    jina = post(server, "/v1/rerank", **ASKED, top_n=2, return_documents=False).json()
    assert [each.keys() for each in jina["results"]] == [{"index", "relevance_score"}] * 2
    told = {**ASKED, "documents": [{"text": each} for each in DOCUMENTS], "top_n": 0}
    assert len(post(server, "/v1/rerank", **told).json()["results"]) == 3
    one = {**ASKED, "documents": DOCUMENTS[0], "query": {"text": "Which?"}, "user": "me"}
    assert len(post(server, "/v1/rerank", **one).json()["results"]) == 1
    # An engine's model has the default verifier; the field says more than the name.
    plain = post(server, "/v1/rerank", **{**ASKED, "model": "scripted"}).json()
    assert (plain["model"], plain["scaling"]["verifier"]) == ("scripted", "judge")
    exact = {"name": "exact", "reference": DOCUMENTS[2]}
    found = post(server, "/v1/rerank", **ASKED, verifier=exact).json()
    assert found["scaling"]["verifier"] == "exact"
    fields = post(server, "/v1/rerank", **{**ASKED, "model": "math"}, verifier={"reference": "2"})
    assert fields.json()["scaling"]["verifier"] == "math"


def test_what_was_not_paid_comes_last(server: Local) -> None:
    body = post(server, "/v1/rerank", **ASKED, budget={"max_calls": 2}).json()
    assert body["scaling"]["stopped_by"] == "calls"
    assert body["results"][-1]["abstained"] is True
    assert body["results"][-1]["relevance_score"] == 0.0
    assert not any("abstained" in each for each in body["results"][:-1])


PAIRS = [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]


@pytest.mark.parametrize(("one", "two"), PAIRS)
@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_scores_come_in_order(server: Local, path: str, one: str, two: str) -> None:
    body = post(server, path, model="judge", **{one: "Which?", two: DOCUMENTS}).json()
    assert body["object"] == "list"
    assert [(each["index"], each["object"]) for each in body["data"]] == [
        (index, "score") for index in range(3)
    ]
    assert [each["score"] for each in body["data"]] == pytest.approx([2 / 9, 8 / 9, 5 / 9])
    assert body["usage"]["completion_tokens"] == 3


def test_pairs(server: Local) -> None:
    before = server.engine.log["started"]
    body = post(server, "/score", text_1=["A?", "B?", "C?"], text_2=DOCUMENTS).json()
    assert [each["score"] for each in body["data"]] == pytest.approx([2 / 9, 8 / 9, 5 / 9])
    assert server.engine.log["started"] - before == 3
    # An exact match of the wrong pair would be a wrong pairing.
    exact = {"name": "exact", "reference": "x"}
    body = post(server, "/score", verifier=exact, text_1=["A?", "B?"], text_2=["x", "y"]).json()
    assert [each["score"] for each in body["data"]] == [1, 0]


def test_hanging_up_stops_the_work() -> None:
    with local(ScriptedEngine(judge, delay=1.0)) as server:
        for path, told in (
            ("/v1/rerank", ASKED),
            ("/v1/score", {"model": "judge", "text_1": ["A?", "B?", "C?"], "text_2": DOCUMENTS}),
        ):
            before = server.engine.log.copy()
            with closing(httpx.Client(base_url=server.url)) as client:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(path, json=told, timeout=0.3)
                assert server.engine.log["started"] - before["started"] == 3
            assert server.wait_until(lambda: server.engine.running == 0) < 0.9
            assert server.engine.log["aborted"] - before["aborted"] == 3


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/rerank", {"query": None}, "query"),
    ("/v1/rerank", {"query": 3}, "query"),
    ("/v1/rerank", {"documents": []}, "documents"),
    ("/v1/rerank", {"documents": ["a", 3]}, "documents.1"),
    ("/v1/rerank", {"documents": [{"content": "a"}]}, "documents.0.text"),
    ("/v1/rerank", {"documents": ["a"] * 9}, "documents"),
    ("/v1/rerank", {"top_n": -1}, "top_n"),
    ("/v1/rerank", {"top_n": "2"}, "top_n"),
    ("/v1/rerank", {"rank_fields": ["title"]}, "rank_fields"),
    ("/v1/rerank", {"max_tokens_per_doc": 512}, "max_tokens_per_doc"),
    ("/v1/rerank", {"verifier": "nope"}, "verifier"),
    ("/v1/rerank", {"model": "math"}, "verifier.reference"),
    ("/v1/rerank", {"budget": {"max_calls": 0}}, "budget.max_calls"),
    ("/v1/rerank", {"messages": []}, "messages"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD)
def test_bad_bodies_name_their_field(
    server: Local, path: str, body: dict[str, Any], param: str
) -> None:
    assert refused(server, path, **{**ASKED, **body})["param"] == param


BAD_PAIRS: list[tuple[dict[str, Any], str]] = [
    ({"text_1": "a"}, "text_2"),
    ({"text_2": "a"}, "text_1"),
    ({"text_1": ["a", "b"], "text_2": ["a"]}, "text_1"),
    ({"queries": "a", "documents": [3]}, "documents.0"),
    ({"queries": "a", "documents": ["a"], "text_1": "b"}, "queries"),
    ({"text_1": "a", "text_2": ["a"] * 9}, "text_2"),
]


@pytest.mark.parametrize(("body", "param"), BAD_PAIRS)
def test_bad_pairs_name_their_field(server: Local, body: dict[str, Any], param: str) -> None:
    assert refused(server, "/v1/score", **body)["param"] == param


def test_an_unknown_model(server: Local) -> None:
    assert refused(server, "/v1/rerank", 404, **{**ASKED, "model": "nope"})["param"] == "model"
