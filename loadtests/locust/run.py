"""Load tests with locust, in an open loop, and their report.

    python -m loadtests.locust.run [--rate 40] [--ramp 10 150] [--seconds 30] [--deadline 1]
    python -m loadtests.locust.run --url http://127.0.0.1:8000 --model MODEL --rate 0.2

Without `--url` it starts the stub upstream and a server before it: that measures the server alone,
at high rates. Each scenario (chat: a single stream; best_of_n with n=8; beam; mixed, with batches)
runs once at a constant rate and, with `--ramp`, once at a rising one. Requests arrive when their
time has come, and latency counts from then: a server that falls behind is not asked less. The
report is `loadtests/out/load.html`, with the plots beside it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import track

from loadtests.locust.figures import figures
from loadtests.locust.plan import SCENARIOS, Plan, Row
from loadtests.locust.report import Run, lines, write_report
from loadtests.report import circumstances
from loadtests.systems import OUT, starter

MODEL = "stub"
_BEYOND_S = 120.0
_LOCUSTFILE = Path(__file__).with_name("locustfile.py")


@contextmanager
def before_the_stub() -> Iterator[str]:
    """Serve before the stub upstream, and yield the URL."""
    with starter("load") as servers:
        stub = servers.module("tests.stub_upstream")
        yield servers.forethought(f"{stub.url}/v1", MODEL).url


def carry_out(plan: Plan) -> Run:
    """Run one plan in a locust of its own.

    Raises:
        RuntimeError: locust failed.
    """
    with tempfile.TemporaryDirectory() as directory:
        kept, rows = Path(directory) / "plan.json", Path(directory) / "rows.jsonl"
        kept.write_text(plan.model_dump_json())
        root = str(_LOCUSTFILE.parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("locust")), "-f", str(_LOCUSTFILE)),
                *("--headless", "--users", "1", "--only-summary", "--loglevel", "WARNING"),
            ],
            env={
                **os.environ,
                "LOAD_PLAN": str(kept),
                "LOAD_ROWS": str(rows),
                "PYTHONPATH": paths,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=plan.seconds + plan.patience_s + _BEYOND_S,
        )
        if not rows.exists():
            raise RuntimeError(f"locust ended with {done.returncode}: {done.stderr[-2000:]}")
        told = [Row.model_validate_json(line) for line in rows.read_text().splitlines() if line]
    return Run(plan, told)


def plans(options: argparse.Namespace, url: str) -> list[Plan]:
    """Return all runs that are asked for."""
    made = []
    for scenario in options.scenarios:
        rates = {scenario: (options.rate, options.rate)}
        if options.ramp:
            rates[f"{scenario}, ramp"] = tuple(options.ramp)
        for name, (rate, last_rate) in rates.items():
            made.append(
                Plan(
                    name=name,
                    scenario=scenario,
                    url=url,
                    key=options.key,
                    model=options.model,
                    rate=rate,
                    last_rate=last_rate,
                    seconds=options.seconds,
                    max_completion_tokens=options.tokens,
                    seed=options.seed,
                )
            )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, write the report and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second")
    parser.add_argument("--ramp", type=float, nargs=2, metavar=("FROM", "TO"))
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run")
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds of a good answer")
    parser.add_argument("--tokens", type=int, default=64, help="cap of each reply")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", help="of a server that runs; default: one before the stub")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--key")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    if options.url is not None:
        runs = [carry_out(plan) for plan in track(plans(options, options.url), "load")]
    else:
        with before_the_stub() as url:
            runs = [carry_out(plan) for plan in track(plans(options, url), "load")]
    made = circumstances("python -m loadtests.locust.run")
    page = write_report(runs, options.deadline, made, options.out)
    for line in lines(runs, [figures(run.plan, run.rows, options.deadline) for run in runs]):
        print("  ".join(line))
    print(page)


if __name__ == "__main__":
    main()
