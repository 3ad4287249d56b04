"""`forethought keys` and a server beside it, as people run them."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from server.keys.key import public_id
from tests.server.keyed import ask, bearer
from tests.server.serving import FORETHOUGHT, environment, serving

pytestmark = pytest.mark.slow

PROMPT = "correct horse battery staple"


def keys(*arguments: str, code: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(FORETHOUGHT), "keys", *arguments],
        capture_output=True,
        text=True,
        env=environment(**settings) | {"COLUMNS": "200"},
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done


def test_keys_are_made_listed_and_revoked_beside_a_server(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    assert keys("list", "--store", store).stdout == "There are no keys.\n"
    first = tmp_path / "key"
    settings = {"keys__mode": "required", "keys__cache_s": "0.5", "store": store}
    with serving(**settings, keys__bootstrap_file=str(first)) as server:
        assert stat.S_IMODE(first.stat().st_mode) == 0o600
        assert ask(server.url, first.read_text().strip()).status_code == 200
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        assert httpx.get(f"{server.url}/metrics").status_code == 401

        options = ("--scope", "inference", "--scope", "metrics", "--expires", "90d")
        quotas = ("--requests-per-minute", "2", "--samples-at-once", "8")
        made = keys("create", "--name", "laptop", *options, *quotas, store=store)
        secret = made.stdout.strip()
        key_id = public_id(secret)
        assert key_id is not None
        assert secret not in made.stderr
        assert [ask(server.url, secret).status_code for _ in range(3)] == [200, 200, 429]
        metrics = httpx.get(f"{server.url}/metrics", headers=bearer(secret))
        assert "forethought_requests" in metrics.text

        listed = keys("list", store=store).stdout
        [line] = [line for line in listed.splitlines() if line.startswith(key_id)]
        assert "laptop" in line
        assert "inference metrics" in line
        assert "active" in line
        assert "requests_per_minute=2, samples_at_once=8" in line
        assert secret.split("-", 2)[2] not in listed

        assert keys("revoke", key_id, store=store).stdout == f"{key_id} (laptop) is revoked\n"
        assert "revoked" in keys("list", store=store).stdout
        assert httpx.get(f"{server.url}/v1/models", headers=bearer(secret)).status_code in (
            200,
            401,
        )
        assert_soon_refused(server.url, secret)

        variables = os.environ | {"OPENAI_API_KEY": first.read_text().strip()}
        [curl] = re.findall(r"^curl .*\n.*$", server.announcement, re.MULTILINE)
        answered = subprocess.run(
            ["bash", "-c", curl], capture_output=True, check=True, env=variables
        )
        assert json.loads(answered.stdout)["choices"]
        [program] = re.findall(r"^from openai.*?\)\nprint.*?$", server.announcement, re.M | re.S)
        subprocess.run([sys.executable, "-c", program], check=True, env=variables)
        asked = [str(FORETHOUGHT), "ask", "Why?", "--url", server.url]
        assert (
            "tokens"
            in subprocess.run(
                asked, capture_output=True, text=True, check=True, env=variables
            ).stdout
        )


def assert_soon_refused(url: str, secret: str) -> None:
    end = time.monotonic() + 0.5 + 2  # `cache_s`, and a slow machine
    while httpx.get(f"{url}/v1/models", headers=bearer(secret)).status_code != 401:
        assert time.monotonic() < end, "the key still opens"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "--name", "x", "--scope", "root"), 2, "inference, batch, metrics, admin"),
        (("create", "--name", "x", "--expires", "soon"), 2, "30m, 12h or 90d"),
        (("create", "--name", "x", "--max-tokens", "1"), 2, "max_tokens"),
        (("create",), 2, "--name"),
        (("revoke", "0123456789abcdef"), 1, "there is no key 0123456789abcdef"),
        (("bootstrap",), 1, "neither"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = keys(*arguments, code=code, store=f"sqlite:{tmp_path / 'store.sqlite'}")
    assert said in done.stderr


def test_first_keys_by_command(tmp_path: Path) -> None:
    settings = {
        "store": f"sqlite:{tmp_path / 'store.sqlite'}",
        "keys__bootstrap_file": str(tmp_path / "key"),
        "keys__metrics_file": str(tmp_path / "metrics"),
    }
    for _ in range(2):
        said = keys("bootstrap", **settings).stdout.split()
        assert said == [str(tmp_path / "key"), str(tmp_path / "metrics")]
    assert len(keys("list", **settings).stdout.splitlines()) == 3


def test_a_server_that_others_reach_does_not_start_without_keys(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(FORETHOUGHT), "serve", "--engine", "scripted", "--host", "0.0.0.0", "--port", "0"],
        capture_output=True,
        text=True,
        env=environment(store=f"sqlite:{tmp_path / 'store.sqlite'}"),
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("forethought: keys: requests to 0.0.0.0 need an API key")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_neither_keys_nor_prompts_are_logged(tmp_path: Path, log_format: str) -> None:
    store, first = f"sqlite:{tmp_path / 'store.sqlite'}", tmp_path / "key"
    settings = {
        "keys__mode": "required",
        "keys__bootstrap_file": str(first),
        "store": store,
        "log_format": log_format,
        "log_level": "debug",
    }
    with serving(**settings) as server:
        secret = first.read_text().strip()
        question = [{"role": "user", "content": PROMPT}]
        for headers in (bearer(secret), bearer(secret[:-1]), {}, bearer(f"{secret} {PROMPT}")):
            for path in ("/v1/chat/completions", f"/v1/{secret}/models", f"/{secret}?key={secret}"):
                hostile = {
                    **headers,
                    "X-Request-Id": secret,
                    "User-Agent": secret,
                    "traceparent": f"00-{secret}",
                }
                url = f"{server.url}{path}"
                httpx.post(url, json={"messages": question}, headers=hostile)
                httpx.post(url, json={"messages": question, secret: PROMPT}, headers=hostile)
                httpx.post(url, json={"messages": [{"role": PROMPT}], "model": secret})
                httpx.post(url, content=PROMPT, headers={**hostile, "Content-Type": PROMPT})
                httpx.get(url, headers=hostile)
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port)) as raw:
            raw.sendall(f"GET /{secret} {PROMPT}\r\n{secret}\r\n\r\n".encode())
            raw.recv(1000)
        server.process.terminate()
        code, errors = server.end()
    assert code == 0
    assert errors.count("\n") > 20, "there is a log"
    assert secret.split("-", 2)[2] not in errors
    assert PROMPT not in errors
    assert "staple" not in errors
