"""What one server with its state, sandbox and Prometheus has to show: `loadtests.deployment`."""

from __future__ import annotations

import time

import httpx

from loadtests.compose import ROOT, Project, logs
from loadtests.deployed import Client, tell, wait_for, wait_until_ready
from loadtests.panels import empty, expressions, values

DASHBOARDS = ROOT / "docker" / "grafana" / "dashboards"
_SCRAPE_S = 16.0
_TESTS = {"name": "python_tests", "tests": ["assert add(2, 3) == 5"], "entry_point": "add"}
_CODE = "```python\ndef add(a, b):\n    return a + b\n```"


def prove_one(project: Project) -> None:
    """Ask one server everything that a deployment promises."""
    url, key = project.url, project.first_key("server")
    wait_until_ready(url)
    assert httpx.post(f"{url}/v1/chat/completions", json={}).status_code == 401
    client = Client(url, key)
    answer = client.chat(strategy={"type": "self_consistency", "n": 4}).json()
    tell("answered with the generated key", answer["usage"])
    verdict = verified(client)
    assert verdict == [1.0, 0.0], verdict
    tell("the sandbox ran the tests", verdict)
    prove_watched(project, client, key)
    project.run("restart", "server")
    wait_until_ready(url)
    assert project.first_key("server") == key
    client.chat()
    tell("after a restart, the key is the same and opens", key.rpartition("-")[0])


def verified(client: Client) -> list[float]:
    """Let the sandbox judge good code and bad."""
    body = {
        "messages": [{"role": "user", "content": "Write add(a, b)."}],
        "candidates": [_CODE, _CODE.replace("+", "-")],
        "verifier": _TESTS,
    }
    data = client.post("/v1/verify", body).json()["data"]
    return [each["score"] for each in data]


def prove_watched(project: Project, client: Client, key: str) -> None:
    """See that metrics want a key, that Prometheus has one, and that all panels show something."""
    prometheus = f"http://127.0.0.1:{project.prometheus_port}"
    assert httpx.get(f"{project.url}/metrics").status_code == 401
    wait_for(lambda: values(prometheus, 'up{job="forethought"}') == [1.0], 90, "no scrape")
    tell("scraped with the key of scope metrics", values(prometheus, "forethought_build_info"))
    for _ in range(3):
        traffic(client)
        time.sleep(_SCRAPE_S)
    asked = [each for path in DASHBOARDS.glob("*.json") for each in expressions(path)]
    missing = empty(prometheus, asked)
    assert asked, "the dashboards ask nothing"
    assert not missing, "no data for:\n" + "\n".join(missing)
    tell("expressions of the dashboard with data", len(asked))
    written = logs(project.containers("server")[0])
    assert "/v1/chat/completions" in written
    assert key not in written, "the key is in the log"


def traffic(client: Client) -> None:
    """Do a bit of everything that is counted."""
    client.chat(stream=True)
    client.chat(strategy={"type": "self_consistency", "n": 4}, stream=True)
    client.chat(strategy={"type": "best_of_n", "n": 2}, verifier="logprob")
    client.chat(strategy={"type": "self_consistency", "n": 4}, budget={"max_calls": 2})
    for _ in range(2):
        client.chat(seed=1, cache=True)
    client.chat(400, strategy="there_is_none")
    client.batch(2)
    verified(client)
