"""Prove a deployment by compose: build it, start it with a real engine, ask it, take it down.

    python -m loadtests.deployment one      # profile cpu: a key, an answer, metrics, the dashboard
    python -m loadtests.deployment scale    # profile scale: kill an engine, a replica; restart all

`--override FILE` adds compose files, `--without SERVICE` leaves services out (Grafana, say): every
expression of the dashboards is asked of Prometheus. Containers and volumes are of a project that is
gone in the end, unless `--keep` is given.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from loadtests.compose import Project, running
from loadtests.deployment_one import prove_one
from loadtests.deployment_scale import prove_scale


def main() -> None:
    """Run a proof."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("proof", choices=["one", "scale"])
    parser.add_argument("--override", type=Path, action="append", default=[])
    parser.add_argument("--without", action="append", default=[], metavar="SERVICE")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--prometheus-port", type=int, default=9090)
    parser.add_argument("--no-build", action="store_true", help="The images are there.")
    parser.add_argument("--keep", action="store_true", help="Leave everything running.")
    given = parser.parse_args()
    project = Project(
        "cpu" if given.proof == "one" else "scale",
        given.override,
        given.without,
        given.port,
        given.prometheus_port,
    )
    with running(project, build=not given.no_build, keep=given.keep):
        if given.proof == "one":
            prove_one(project)
        else:
            asyncio.run(prove_scale(project))


if __name__ == "__main__":
    main()
