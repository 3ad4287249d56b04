"""Prometheus and Grafana as compose starts them: rules, scraping with a key, every panel."""

import json
import math
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.serving import serving
from tests.stub_upstream import Fault, Stub, running_stub

DOCKER = Path(__file__).parents[2] / "docker"
PROMETHEUS = DOCKER / "prometheus"
BOARD: dict[str, Any] = json.loads((DOCKER / "grafana/dashboards/forethought.json").read_text())
VARIABLES = {
    "$__rate_interval": "1m",
    "$__range": "1m",
    "$instance": ".*",
    "$strategy": ".*",
    "$price_input": "0.05",
    "$price_output": "0.40",
}
QUESTION = [{"role": "user", "content": "What is 6 times 7?"}]
PANEL_KINDS = {"row", "stat", "timeseries"}


def panels() -> list[dict[str, Any]]:
    return [each for each in BOARD["panels"] if each["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    """Return every expression of the dashboard under its panel's title."""
    asked = [(each["title"], target["expr"]) for each in panels() for target in each["targets"]]
    return asked + [(each["name"], each["expr"]) for each in BOARD["annotations"]["list"]]


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def alert_names(path: Path) -> set[str]:
    return set(re.findall(r"(?:alert|alertname): (\w+)", path.read_text()))


def test_the_dashboard_is_laid_out() -> None:
    """Unique ids, known kinds, and no panel over another or beyond the 24 columns."""
    everything = BOARD["panels"]
    assert len({each["id"] for each in everything}) == len(everything)
    assert {each["type"] for each in everything} == PANEL_KINDS
    taken: set[tuple[int, int]] = set()
    for each in everything:
        place = each["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }
        assert not cells & taken, each["title"]
        assert all(0 <= column < 24 for column, _ in cells), each["title"]
        taken |= cells
    rows = [each["title"] for each in everything if each["type"] == "row"]
    wanted = ["Traffic", "Latency", "Tokens and money", "Strategies", "Engine"]
    assert rows == [*wanted, "Store and jobs", "Errors", "Process"]


def test_the_dashboard_asks_the_data_source_that_is_provisioned() -> None:
    [variable] = [each for each in BOARD["templating"]["list"] if each["type"] == "datasource"]
    source = (DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text()
    assert f"uid: {variable['current']['value']}\n" in source
    assert f"type: {variable['query']}\n" in source
    assert {json.dumps(each["datasource"]) for each in panels()} == {
        json.dumps({"type": "prometheus", "uid": "${datasource}"})
    }
    interval = re.search(r"scrape_interval: (\w+)", (PROMETHEUS / "prometheus.yml").read_text())
    assert interval is not None
    assert f"timeInterval: {interval[1]} " in source


def test_variables_are_declared_and_used() -> None:
    declared = {f"${each['name']}" for each in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\w+", " ".join(each for _, each in queries())))
    assert used - {"$__rate_interval", "$__range"} == declared - {"$datasource"}


def test_every_alert_has_its_trial() -> None:
    trials = Path(__file__).with_name("alerts_test.yml")
    assert alert_names(trials) == alert_names(PROMETHEUS / "alerts.yml")


@pytest.mark.slow
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    for path in (PROMETHEUS / "alerts.yml", Path(__file__).with_name("alerts_test.yml")):
        shutil.copy(path, tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Watched:
    """A server with everything switched on, and what makes traffic there."""

    url: str
    key: str
    metrics_key: Path
    stub: Stub
    """The upstream of its second engine, `stub`."""

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


@contextmanager
def watched(directory: Path) -> Iterator[Watched]:
    with ExitStack() as stack:
        stub = stack.enter_context(running_stub())
        config = directory / "settings.toml"
        config.write_text(
            f'[keys]\nmode = "required"\nbootstrap_file = "{directory}/key"\n'
            f'metrics_file = "{directory}/metrics-key"\n'
            "[batches]\npoll_s = 0.1\n"
            '[engines.stub]\nengine = "http"\n'
            f'upstream = "{stub.base_url}"\nmodel = "{stub.model}"\n'
        )
        # A variable of the environment wins over the file, and tests set one.
        store = f"{directory}/store.sqlite"
        server = stack.enter_context(serving("--config", str(config), store=store))
        key = (directory / "key").read_text().strip()
        yield Watched(server.url, key, directory / "metrics-key", stub)


def traffic(server: Watched, number: int) -> None:
    """Send what an operator has to see: of every kind, well and badly."""
    with server.client() as client:

        def chat(expected: int = 200, **body: Any) -> httpx.Response:
            body = {"messages": QUESTION, **body}
            response = client.post("/v1/chat/completions", json=body)
            assert response.status_code == expected, response.text
            return response

        for strategy in ("single", "self_consistency", "adaptive_consistency", "weighted_vote"):
            chat(strategy=strategy)
            chat(strategy=strategy, stream=True)
        chat(strategy={"type": "best_of_n", "n": 4}, verifier="logprob")
        chat(strategy="self_consistency", budget={"max_calls": 2})
        chat(strategy="self_consistency", budget={"max_tokens": 16})
        for _ in range(2):
            chat(strategy="self_consistency", seed=number, cache=True)
        chat(404, model="no such")
        chat(400, strategy="no such")
        server.stub.faults.append(Fault(status=500))
        chat(502, model=server.stub.model)
        assert client.get("/nowhere").status_code == 404
        batch(client)


def batch(client: httpx.Client) -> None:
    """Have two lines answered."""
    lines = [
        {
            "custom_id": str(place),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": QUESTION},
        }
        for place in range(2)
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    sent = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", data)})
    assert sent.status_code == 200, sent.text
    asked = {
        "input_file_id": sent.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    made = client.post("/v1/batches", json=asked).json()
    wait_until(lambda: client.get(f"/v1/batches/{made['id']}").json()["status"] == "completed", 20)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too late"
        time.sleep(0.1)


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that runs."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        response = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10)
        told = response.json()
        assert told["status"] == "success", f"{parameters}: {told.get('error')}"
        return told["data"]

    def query(self, expression: str) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def numbers(self, expression: str) -> list[float]:
        """Return what the expression comes to, without what is no number."""
        values = (float(each["value"][1]) for each in self.query(expression))
        return [value for value in values if math.isfinite(value)]


@contextmanager
def scraping(server: Watched, directory: Path) -> Iterator[Prometheus]:
    """Run Prometheus on the configuration that is shipped, with other names and shorter times."""
    config, _, _ = (PROMETHEUS / "prometheus.yml").read_text().partition("\n  # vLLM's own")
    for old, new in {
        "_interval: 15s": "_interval: 1s",
        "/var/lib/forethought/metrics-key/key": str(server.metrics_key),
        "dns_sd_configs": "static_configs",
        "{names: [forethought], type: A, port: 8000, refresh_interval: 10s}": (
            "{targets: [" + server.url.removeprefix("http://") + "]}"
        ),
    }.items():
        assert old in config, old
        config = config.replace(old, new)
    (directory / "prometheus.yml").write_text(config)
    shutil.copy(PROMETHEUS / "alerts.yml", directory)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        "prometheus",
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as process:
        try:
            prometheus = Prometheus(f"http://{address}")
            wait_until(lambda: ready(prometheus.url), 20)
            yield prometheus
        finally:
            process.terminate()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_every_expression_is_accepted_and_every_panel_has_data(tmp_path: Path) -> None:
    with watched(tmp_path) as server, scraping(server, tmp_path) as prometheus:
        wait_until(lambda: prometheus.numbers("forethought_build_info") == [1.0], 20)
        for number in range(2):  # a rate is of what came between two looks
            traffic(server, number)
            time.sleep(2.5)
        empty = [
            f"{title}: {expression}"
            for title, expression in queries()
            if not prometheus.numbers(filled(expression)) and title != "Restarts"
        ]
        assert not empty, "\n".join(empty)
        assert prometheus.query(filled(dict(queries())["Restarts"])) == []

        for variable in BOARD["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.findall(r"\w+", variable["query"]["query"])[1:]
                assert prometheus.get(f"label/{label}/values", **{"match[]": metric})

        wait_until(lambda: evaluated(prometheus), 10)
        rules = [each for group in prometheus.get("rules")["groups"] for each in group["rules"]]
        assert {each["name"] for each in rules} == alert_names(PROMETHEUS / "alerts.yml")
        assert {each["health"] for each in rules} == {"ok"}, rules
        for each in rules:
            prometheus.query(each["query"])

        # What the numbers are, where they can be known.
        told = {
            "hit": 'sum(forethought_cache_lookups_total{outcome="hit"})',
            "out of calls": 'sum(forethought_stops_total{limit="calls"})',
            "lines": 'sum(forethought_jobs_total{event="finished",queue="batches"})',
            "upstream": 'sum(forethought_errors_total{kind="EngineError"})',
            "lost": "sum(forethought_samples_failed_total)",
        }
        counts = {name: prometheus.numbers(query) for name, query in told.items()}
        assert counts == {
            "hit": [2.0],
            "out of calls": [2.0],
            "lines": [4.0],
            "upstream": [2.0],
            "lost": [2.0],
        }


def evaluated(prometheus: Prometheus) -> bool:
    groups = prometheus.get("rules")["groups"]
    return all(each["health"] != "unknown" for group in groups for each in group["rules"])
