"""API keys over a real socket: who is let in, where to, and until when."""

import asyncio
import re
import stat
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, get_args

import httpx
import openai
import pytest
from starlette.routing import Route

from server.app import create_app
from server.configuration import ConfigurationError
from server.engines.scripted import ScriptedEngine
from server.identity import Scope
from server.keys import key as keys
from server.keys.bootstrap import asks_for_keys, prepare_keys
from server.keys.errors import Unauthenticated
from server.keys.registry import UnknownKey, make_key
from server.keys.ring import KeyRing
from server.keys.scopes import OPEN, needed, rule
from server.settings import KeySettings, Settings
from server.store.base import StoreUnavailable, open_store
from tests.server.keyed import add_key, all_keys, ask, bearer, end_key
from tests.server.local import QUESTION, Local, error_of, local, make_state
from tests.store.serving import RedisServer

CACHE_S = 0.3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:{tmp_path_factory.mktemp('keys') / 'store.sqlite'}"


@pytest.fixture(scope="module")
def gate(store: str) -> Iterator[Local]:
    with local(store=store, keys={"mode": "required", "cache_s": CACHE_S}) as served:
        yield served


def routes() -> list[tuple[str, str]]:
    """Every method and path of the application, parameters filled in."""
    app = create_app(make_state(ScriptedEngine()))
    found = []
    for route in app.routes:
        assert isinstance(route, Route), f"{route}: what scope does it need?"
        path = re.sub(r"\{[^}]+\}", "x", route.path)
        found += [(method, path) for method in sorted((route.methods or set()) - {"HEAD"})]
    return found


def test_every_route_has_a_scope_or_is_open() -> None:
    paths = {path for _, path in routes()}
    assert [path for path in sorted(paths) if rule(path) is None] == sorted(OPEN)
    assert {"/healthz", "/readyz"} == OPEN


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v1/files/file-1/content", "batch"),
        ("/v1/batches", "batch"),
        ("/v1/filesystem", "inference"),
        ("/v1", "inference"),
        ("/metrics", "metrics"),
        ("/metrics/x", "metrics"),
        ("/healthz/x", "admin"),
        ("//v1/models", "admin"),
        ("/", "admin"),
        ("", "admin"),
        ("*", "admin"),
    ],
)
def test_what_no_rule_names_is_for_admins(path: str, scope: Scope) -> None:
    assert needed(path) == scope


def test_a_key_opens_what_its_scopes_say(gate: Local, store: str) -> None:
    secrets = {scope: add_key(store, scope).secret for scope in get_args(Scope)}
    for method, path in routes():
        if path in OPEN:
            assert gate.http.request(method, path).status_code == 200
            continue
        unknown = gate.http.request(method, path)
        assert unknown.status_code == 401, path
        assert unknown.headers["www-authenticate"] == "Bearer"
        for scope, secret in secrets.items():
            response = gate.http.request(method, path, headers=bearer(secret))
            if scope == needed(path):
                assert response.status_code not in (401, 403), (path, response.text)
            else:
                assert response.status_code == 403, path
                assert repr(needed(path)) in error_of(response)["message"]


def test_the_official_client_is_let_in_and_told_why_not(gate: Local, store: str) -> None:
    def create(key: str) -> Any:
        client = openai.OpenAI(base_url=f"{gate.url}/v1", api_key=key, max_retries=0)
        with client:
            return client.chat.completions.create(model="scripted", messages=QUESTION)  # type: ignore[arg-type]

    assert create(add_key(store).secret).choices[0].message.content
    with pytest.raises(openai.AuthenticationError) as caught:
        create("sk-proj-1234567890")
    assert caught.value.code == "invalid_api_key"
    assert caught.value.type == "invalid_request_error"
    assert "sk-proj" not in str(caught.value)
    with pytest.raises(openai.PermissionDeniedError, match="inference"):
        create(add_key(store, "metrics", "batch").secret)


def test_shapes_of_the_header(gate: Local, store: str) -> None:
    secret = add_key(store).secret
    wrong = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    for status, headers in [
        (200, {"Authorization": f"Bearer {secret}"}),
        (200, {"Authorization": f"bearer  {secret}"}),
        (200, {"api-key": secret}),
        (401, {}),
        (401, {"Authorization": secret}),
        (401, {"Authorization": f"Basic {secret}"}),
        (401, {"Authorization": "Bearer"}),
        (401, {"Authorization": f"Bearer {wrong}"}),
        (401, {"Authorization": f"Bearer {secret}a"}),
        (401, {"Authorization": "Bearer ft-" + "0" * 16 + "-" + "A" * 43}),
        (401, {"Authorization": b"Bearer \xff\xfe"}),
    ]:
        response = gate.http.get("/v1/models", headers=headers)  # type: ignore[arg-type]
        assert response.status_code == status, headers
        if status == 401:
            assert error_of(response)["code"] == "invalid_api_key"


def test_nothing_is_done_for_strangers(gate: Local) -> None:
    before = gate.engine.log.copy()
    response = gate.http.post("/v1/chat/completions", content=b"{" * 100_000)
    assert response.status_code == 401
    assert gate.engine.log == before


def test_a_revocation_counts_within_seconds(gate: Local, store: str) -> None:
    kept, revoked = add_key(store), add_key(store)
    for each in (kept, revoked):
        assert ask(gate.url, each.secret).status_code == 200
    assert end_key(store, revoked.key.id).state == "revoked"
    time.sleep(CACHE_S)
    response = ask(gate.url, revoked.secret)
    assert response.status_code == 401
    assert "revoked" in error_of(response)["message"]
    assert ask(gate.url, kept.secret).status_code == 200
    with pytest.raises(UnknownKey):
        end_key(store, "0" * 16)


def test_a_key_expires(gate: Local, store: str) -> None:
    made = add_key(store, expires_s=0.5)
    assert ask(gate.url, made.secret).status_code == 200
    time.sleep(0.6)  # whatever is remembered of it
    assert "expired" in error_of(ask(gate.url, made.secret))["message"]


def test_only_a_hash_is_kept(store: str) -> None:
    made = add_key(store, name="hashed")
    secret = made.secret.split("-", 2)[2]
    kept = Path(store.removeprefix("sqlite:"))
    for file in kept.parent.glob("*"):
        assert secret.encode() not in file.read_bytes()
    [found] = [key for key in all_keys(store) if key.name == "hashed"]
    assert found == made.key
    assert len(found.digest) == 64


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def compare(first: str, second: str) -> bool:
        compared.append((first, second))
        return first == second

    monkeypatch.setattr(keys, "compare_digest", compare)
    secret, other = keys.draw_key(), keys.draw_key()
    key = make_key(secret, "timed", frozenset())
    assert key.is_opened_by(secret)
    assert not key.is_opened_by(other)
    assert compared == [(key.digest, key.digest), (key.digest, keys.digest_of(other))]


def test_keys_are_long_and_never_the_same() -> None:
    drawn = {keys.draw_key() for _ in range(1000)}
    assert len(drawn) == 1000
    assert all(keys.public_id(each) for each in drawn)
    assert all(len(each.split("-", 2)[2]) == 43 for each in drawn)  # 256 bits in base64


def test_masked_text_keeps_ids_only() -> None:
    secret = keys.draw_key()
    told = keys.masked(f"GET /v1/{secret}/models by {secret!r}")
    assert secret[20:] not in told
    assert told.count(secret[:19]) == 2
    assert keys.masked("left-handed") == "left-handed"


def test_while_redis_is_away_known_keys_count(redis_server: RedisServer) -> None:
    redis_server.empty()
    known, fresh = add_key(redis_server.url).secret, add_key(redis_server.url).secret
    settings = {"mode": "required", "cache_s": 0, "outage_s": 60}
    with local(store=redis_server.url, keys=settings) as server:
        assert ask(server.url, known).status_code == 200
        redis_server.kill()
        assert ask(server.url, known).status_code == 200
        response = ask(server.url, fresh)
        assert response.status_code == 503
        assert error_of(response)["code"] == "store_unavailable"
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        redis_server.start()
        server.wait_until(lambda: ask(server.url, fresh).status_code == 200, seconds=10)


async def test_known_keys_are_forgotten_when_the_store_stays_away(
    redis_server: RedisServer,
) -> None:
    redis_server.empty()
    secret = await asyncio.to_thread(lambda: add_key(redis_server.url).secret)
    async with aclosing(await open_store(redis_server.url)) as store:
        ring = KeyRing(store.records, KeySettings(cache_s=0, outage_s=0.2))
        identity = await ring.identify(secret)
        assert await ring.identity(identity.owner) == identity
        redis_server.kill()
        try:
            assert await ring.identify(secret) == identity
            await asyncio.sleep(0.25)
            with pytest.raises(StoreUnavailable):
                await ring.identify(secret)
        finally:
            redis_server.start()


async def test_a_ring_of_another_owner(tmp_path: Path) -> None:
    async with aclosing(await open_store(f"sqlite:{tmp_path / 'store.sqlite'}")) as store:
        with pytest.raises(Unauthenticated):
            await KeyRing(store.records, KeySettings()).identity("0" * 16)


@pytest.mark.parametrize(
    ("host", "mode", "asks"),
    [
        ("127.0.0.1", "auto", False),
        ("127.8.9.1", "auto", False),
        ("localhost", "auto", False),
        ("::1", "auto", False),
        ("0.0.0.0", "auto", True),
        ("::", "auto", True),
        ("192.0.2.1", "auto", True),
        ("192.0.2.1", "none", False),
        ("127.0.0.1", "required", True),
    ],
)
def test_who_needs_a_key(host: str, mode: str, asks: bool) -> None:
    assert asks_for_keys(Settings(host=host, keys={"mode": mode})) is asks  # type: ignore[arg-type]


def first_keys(tmp_path: Path, **files: Path) -> Settings:
    return Settings(
        host="192.0.2.1",
        store=f"sqlite:{tmp_path / 'store.sqlite'}",
        keys=KeySettings(**files),
    )


def test_a_server_without_keys_is_refused_where_others_reach_it(tmp_path: Path) -> None:
    settings = first_keys(tmp_path)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1 need an API key.*keys create"):
            asyncio.run(prepare_keys(settings))
        assert settings.store is not None
        end_key(settings.store, add_key(settings.store).key.id)  # one that has ended is none
    add_key(settings.store)
    asyncio.run(prepare_keys(settings))


def test_first_keys_are_made_once_and_stay_revoked(tmp_path: Path) -> None:
    first, metrics = tmp_path / "new" / "key", tmp_path / "metrics"
    settings = first_keys(tmp_path, bootstrap_file=first, metrics_file=metrics)
    assert settings.store is not None
    asyncio.run(prepare_keys(settings))
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert stat.S_IMODE(metrics.stat().st_mode) == 0o640
    assert [path.name for path in first.parent.iterdir()] == ["key"]
    secret = first.read_text()
    for _ in range(3):
        asyncio.run(prepare_keys(settings))
    assert first.read_text() == secret
    scopes = {key.name: key.scopes for key in all_keys(settings.store)}
    assert scopes == {"bootstrap": frozenset(get_args(Scope)), "metrics": frozenset({"metrics"})}
    key_id = keys.public_id(secret.strip())
    assert key_id is not None
    end_key(settings.store, key_id)
    asyncio.run(prepare_keys(settings))
    assert {key.id: key.state for key in all_keys(settings.store)}[key_id] == "revoked"


def test_of_servers_that_start_together_one_makes_the_key(tmp_path: Path) -> None:
    settings = first_keys(tmp_path, bootstrap_file=tmp_path / "key")
    assert settings.store is not None

    async def start_all() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(asyncio.to_thread(asyncio.run, prepare_keys(settings)))

    asyncio.run(start_all())
    [key] = all_keys(settings.store)
    assert key.is_opened_by((tmp_path / "key").read_text().strip())


def test_a_file_that_holds_no_key_is_told(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2\n")
    with pytest.raises(ConfigurationError, match="no key of the form ft-ID-SECRET") as caught:
        asyncio.run(prepare_keys(first_keys(tmp_path, bootstrap_file=tmp_path / "key")))
    assert "hunter2" not in str(caught.value)
