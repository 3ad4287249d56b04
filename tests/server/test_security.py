"""What answers tell browsers, and that logs tell no secrets."""

import httpx
import pytest

from server.engines.scripted import ScriptedEngine
from tests.server.local import QUESTION, Local, local

CSP = "default-src 'none'; frame-ancestors 'none'"
ORIGIN = "https://chat.example.org"


def check(response: httpx.Response, *, json: bool = True) -> None:
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers.get_list("cache-control") == ["no-store"]
    assert response.headers.get("content-security-policy") == (CSP if json else None)
    assert "strict-transport-security" not in response.headers
    assert not [name for name in response.headers if name.startswith("access-control-")]


def test_every_answer_has_them(server: Local) -> None:
    check(server.post())
    check(server.post(strategy="nope"))
    check(server.http.get("/v1/models"))
    check(server.http.get("/v1/nothing"))
    check(server.http.get("/v1/chat/completions"))
    check(server.http.get("/metrics"), json=False)
    check(server.http.get("/docs"), json=False)
    check(server.http.get("/v1/models", headers={"Origin": ORIGIN}))
    body = {"messages": QUESTION, "stream": True}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        check(response, json=False)
        assert [*response.iter_lines()]


def test_faults_of_ours_have_them() -> None:
    def script(prompt: object, sampling: object, index: int) -> str:
        raise RuntimeError

    with local(ScriptedEngine(script)) as server:
        response = server.post()
        assert response.status_code == 500
        check(response)


def test_strict_transport_is_told_behind_tls_only(server: Local) -> None:
    response = server.http.get("/v1/models", headers={"X-Forwarded-Proto": "https"})
    assert response.headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize("keys", ["none", "required"])
def test_pages_of_configured_origins_may_ask(keys: str) -> None:
    with local(cors={"origins": [ORIGIN]}, keys={"mode": keys}) as server:
        asked = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
        }
        allowed = server.http.options("/v1/chat/completions", headers=asked)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in allowed.headers
        answered = server.http.get("/v1/models", headers={"Origin": ORIGIN})
        assert answered.status_code == (401 if keys == "required" else 200)
        assert answered.headers["access-control-allow-origin"] == ORIGIN
        exposed = answered.headers["access-control-expose-headers"].lower()
        assert {"x-request-id", "x-forethought-cache"} <= set(exposed.split(", "))
        other = {**asked, "Origin": "https://evil.example.org"}
        refused = server.http.options("/v1/chat/completions", headers=other)
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers


def test_counts_are_capped(server: Local) -> None:
    """Messages and samples of a request, and replies to judge; bodies: see test_errors."""
    settings = server.state.settings.limits
    told = server.refused(messages=QUESTION * (settings.max_messages + 1))
    assert told["param"] == "messages"
    wide = {"type": "self_consistency", "n": settings.max_samples + 1}
    assert server.refused(strategy=wide)["param"] == "strategy.n"
    replies = [{"content": "42"}] * (settings.max_samples + 1)
    judge = {"name": "math", "reference": "42"}
    told = server.refused(path="/v1/verify", candidates=replies, verifier=judge)
    assert told["param"] == "candidates"
