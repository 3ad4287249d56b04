"""`/v1/traces`: which runs are recorded, who finds them, and how they are deleted."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.keyed import add_key, ask, bearer
from tests.server.local import QUESTION, Local, error_of, local

BEST: dict[str, Any] = {"type": "best_of_n", "n": 3}


@pytest.fixture(params=["file", "store"])
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Local]:
    """Serve with traces in a file of their own, and in the store."""
    terms = {"file": tmp_path / "traces.sqlite"} if request.param == "file" else {}
    with local(traces=terms) as served:
        yield served


def listed(server: Local, **query: Any) -> list[str]:
    response = server.http.get("/v1/traces", params=query)
    assert response.status_code == 200, response.text
    return [each["id"] for each in response.json()["data"]]


def test_what_was_run_is_listed_shown_and_deleted(recording: Local) -> None:
    voted = {"type": "self_consistency", "n": 4}
    answers = [recording.post(strategy=each, seed=1).json() for each in ("single", BEST, voted)]
    single, best, vote = (each["id"] for each in answers)
    assert listed(recording) == [vote, best, single]
    assert listed(recording, strategy="best_of_n") == [best]
    assert listed(recording, min_agreement=0.01) == [vote]
    spent = answers[1]["usage"]["completion_tokens"]
    assert best in listed(recording, min_tokens=spent, max_tokens=spent)
    (entry, *_) = recording.http.get("/v1/traces", params={"strategy": "best_of_n"}).json()["data"]
    assert entry == {
        "object": "trace",
        "id": best,
        "owner": "",
        "saved_at": pytest.approx(time.time(), abs=60),
        "bytes": entry["bytes"],
        "kind": "chat",
        "model": "scripted",
        "strategy": "best_of_n",
        "agreement": None,
        "tokens": spent,
    }
    shown = recording.http.get(f"/v1/traces/{best}").json()
    assert (shown["messages"], shown["tokens"]) == (QUESTION, spent)
    replayed = recording.http.post("/v1/replay", json={"trace": vote})
    assert replayed.json()["candidates"] == 4
    deleted = recording.http.delete(f"/v1/traces/{best}")
    assert deleted.json() == {"id": best, "object": "trace", "deleted": True}
    assert recording.http.delete(f"/v1/traces/{best}").status_code == 404
    assert recording.http.get(f"/v1/traces/{best}").status_code == 404
    assert listed(recording) == [vote, single]


def test_pages(recording: Local) -> None:
    made = [recording.post(seed=seed).json()["id"] for seed in range(5)][::-1]
    first = recording.http.get("/v1/traces", params={"limit": 2}).json()
    assert [each["id"] for each in first["data"]] == made[:2]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, made[0], made[1])
    rest = recording.http.get("/v1/traces", params={"after": made[1], "limit": 100}).json()
    assert [each["id"] for each in rest["data"]] == made[2:]
    assert rest["has_more"] is False
    none = recording.http.get("/v1/traces", params={"after": "gone"}).json()
    assert (none["data"], none["first_id"], none["has_more"]) == ([], None, False)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"min_agreement": "nan"}, "min_agreement"),
        ({"min_tokens": 10**30}, "min_tokens"),
        ({"stratgy": "single"}, "stratgy"),
    ],
)
def test_what_is_wrong_in_a_query_is_named(
    server: Local, query: dict[str, Any], param: str
) -> None:
    error = error_of(server.http.get("/v1/traces", params=query))
    assert error["param"] == param


def test_a_request_may_refuse_to_be_recorded(recording: Local) -> None:
    recording.post(trace=False)
    kept = recording.post(trace=True).json()["id"]
    assert listed(recording) == [kept]


def test_a_server_may_record_only_who_asks(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    plain, marked = add_key(store), add_key(store)
    terms = {"record": "asked", "keys": [marked.key.id]}
    with local(traces=terms, store=store, keys={"mode": "required"}) as server:
        asked = ask(server.url, plain.secret, trace=True).json()["id"]
        ask(server.url, plain.secret)
        by_key = ask(server.url, marked.secret).json()["id"]
        ask(server.url, marked.secret, trace=False)
        for secret, found in ((plain.secret, asked), (marked.secret, by_key)):
            data = httpx.get(f"{server.url}/v1/traces", headers=bearer(secret)).json()["data"]
            assert [each["id"] for each in data] == [found]


def test_a_server_that_keeps_none_says_so(server: Local) -> None:
    assert server.refused(trace=True)["param"] == "trace"
    assert server.post(trace=False).status_code == 200
    for method, path in (("GET", ""), ("GET", "/a"), ("DELETE", "/a")):
        response = server.http.request(method, f"/v1/traces{path}")
        assert response.status_code == 404
        assert "setting `traces`" in error_of(response)["message"]


def test_only_the_owner_and_the_administrator_find_a_trace(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    mine, yours = add_key(store), add_key(store)
    admin = add_key(store, "admin", "inference")
    with (
        local(traces={}, store=store, keys={"mode": "required"}) as server,
        httpx.Client(base_url=server.url) as http,
    ):
        made = ask(server.url, mine.secret, strategy=BEST).json()["id"]
        foreign, own, any_of = map(bearer, (yours.secret, mine.secret, admin.secret))
        assert http.get("/v1/traces", headers=foreign).json()["data"] == []
        for method in ("GET", "DELETE"):
            assert http.request(method, f"/v1/traces/{made}", headers=foreign).status_code == 404
        refused = http.post("/v1/replay", json={"trace": made}, headers=foreign)
        assert (refused.status_code, error_of(refused)["param"]) == (404, "trace")
        assert http.post("/v1/replay", json={"trace": made}, headers=own).status_code == 200
        (entry,) = http.get("/v1/traces", headers=any_of).json()["data"]
        assert (entry["id"], entry["owner"]) == (made, mine.key.id)
        assert http.get(f"/v1/traces/{made}", headers=any_of).status_code == 200
        assert http.delete(f"/v1/traces/{made}", headers=any_of).status_code == 200
        assert http.get(f"/v1/traces/{made}", headers=own).status_code == 404


def test_judging_is_recorded_too(recording: Local) -> None:
    asked = {"messages": QUESTION, "candidates": [{"content": "42"}]}
    told = recording.http.post(
        "/v1/verify", json={**asked, "verifier": {"name": "regex", "pattern": "4"}}
    )
    (entry,) = recording.http.get("/v1/traces").json()["data"]
    assert (entry["id"], entry["kind"], entry["strategy"]) == (told.json()["id"], "verify", None)
