"""Does the server do what its OpenAPI document says? Schemathesis asks it thousands of questions.

    python -m loadtests.conformance [--cases 5000] [--minutes 10] [--seed 1]

Right and wrong requests are made from `/openapi.json`, and every answer is held against it: no 5xx,
no undeclared status, type or field, no wrong request that is served. The server is a process of its
own on the scripted engine, with traces; `--url` (and `--key`) names another. It runs until it has
asked that many cases and, where `--minutes` says so, for so long. The report is
`loadtests/out/conformance.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from loadtests.servers import free_port, serving
from loadtests.systems import OUT
from server.store.opening import MEMORY

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)
PHASES = ("examples", "coverage", "fuzzing")
_CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]
"""
"""A request may set a deadline that nothing can meet: then a 504 is right."""
METHODS = ("get", "post", "put", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run."""

    cases: int
    passed: bool
    text: str
    """What Schemathesis has to say, with a `curl` for each failure."""


@contextmanager
def scripted_server() -> Iterator[str]:
    """Serve the scripted engine with traces, and yield the URL."""
    port = free_port()
    command = [
        *(str(Path(sys.executable).with_name("forethought")), "serve", "--engine", "scripted"),
        *("--port", str(port), "--log-level", "warning"),
    ]
    with tempfile.TemporaryDirectory() as directory:
        settings = {
            "FORETHOUGHT_STORE": MEMORY,
            "FORETHOUGHT_TRACES": str(Path(directory) / "traces.sqlite"),
        }
        log = OUT / "conformance-forethought.log"
        with serving(command, port, ready="/readyz", log=log, environment=settings) as server:
            yield server.url


def ask(
    url: str,
    cases: int,
    seed: int,
    *,
    key: str | None = None,
    minutes: float = 0,
    phases: Sequence[str] = PHASES,
) -> Report:
    """Ask about so many cases, spread over all operations; `coverage` adds thousands of its own."""
    with tempfile.TemporaryDirectory() as directory:
        kept = Path(directory) / "report.json"
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        examples = max(1, math.ceil(cases / _operations(url, headers)))
        configuration = Path(directory) / "schemathesis.toml"
        configuration.write_text(_CONFIGURATION)
        command = _command(url, examples, seed, kept, configuration)
        command += ["--phases", ",".join(phases)]
        if minutes:
            command += ["--max-time", str(math.ceil(60 * minutes))]
        for name, value in headers.items():
            command += ["--header", f"{name}: {value}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
        report = json.loads(kept.read_text()) if kept.exists() else {}
    counted = report.get("test_cases") or {}
    return Report(counted.get("generated", 0), done.returncode == 0, done.stdout + done.stderr)


def _command(url: str, examples: int, seed: int, report: Path, configuration: Path) -> list[str]:
    return [
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(configuration)),
        *("run", f"{url}/openapi.json", "--checks", ",".join(CHECKS)),
        *("--max-examples", str(examples), "--seed", str(seed)),
        *("--report-json-path", str(report), "--no-color", "--continue-on-failure"),
        *("--suppress-health-check", "all", "--warnings", "off", "--request-timeout", "30"),
    ]


def _operations(url: str, headers: Mapping[str, str]) -> int:
    document = httpx.get(f"{url}/openapi.json", headers=headers, timeout=60).raise_for_status()
    paths = document.json()["paths"]
    return sum(method in METHODS for operations in paths.values() for method in operations)


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, keep the report, and return 1 where the server did not keep its word."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", help="of a server that runs; default: one is started")
    parser.add_argument("--key")
    options = parser.parse_args(arguments)
    asked = {"key": options.key, "minutes": options.minutes}
    if options.url is not None:
        report = ask(options.url, options.cases, options.seed, **asked)
    else:
        with scripted_server() as url:
            report = ask(url, options.cases, options.seed, **asked)
    print(report.text)
    told = {"cases": report.cases, "passed": report.passed, "seed": options.seed}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "conformance.json").write_text(json.dumps(told, indent=1))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
