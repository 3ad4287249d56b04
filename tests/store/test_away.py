"""Redis away: requests without state are served, the rest is told so, and it heals by itself."""

import httpx
import pytest

from server.errors import RETRY_AFTER_S, error_response
from server.store.base import StoreUnavailable
from tests.server.local import QUESTION, local
from tests.server.serving import serving
from tests.store.serving import RedisServer

AWAY = "the server's store does not answer now"


def test_what_needs_the_store_is_refused_with_a_time_to_come_back() -> None:
    response = error_response(StoreUnavailable())
    assert response.status_code == 503
    assert response.headers["retry-after"] == str(RETRY_AFTER_S)
    assert b'"store_unavailable"' in response.body


@pytest.mark.slow
def test_a_server_works_without_its_store_until_it_comes_back(redis_server: RedisServer) -> None:
    with local(store=redis_server.url) as server:
        assert server.http.get("/readyz").json()["store"] == "ok"
        redis_server.kill()
        assert server.post().status_code == 200
        server.wait_until(lambda: server.http.get("/readyz").json()["store"] == AWAY, seconds=8)
        ready = server.http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        redis_server.start()
        server.wait_until(lambda: server.http.get("/readyz").json()["store"] == "ok", seconds=8)


@pytest.mark.slow
def test_a_server_starts_without_its_store(redis_server: RedisServer) -> None:
    redis_server.kill()
    with serving(store=redis_server.url) as server:
        assert httpx.get(f"{server.url}/readyz").json()["store"] == AWAY
        answer = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": QUESTION})
        assert answer.status_code == 200
    redis_server.start()
