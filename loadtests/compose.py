"""A compose project for a proof: brought up, looked into, and taken down with its volumes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPOSE_FILE = ROOT / "docker" / "compose.yaml"
KEY_FILE = "/var/lib/forethought/keys/key"
_START_S = 3600
"""Images are built and models are fetched in it."""


@dataclass(frozen=True, slots=True)
class Project:
    """The services of one profile, as containers of their own names, networks and volumes."""

    profile: str
    overrides: Sequence[Path] = ()
    without: Sequence[str] = ()
    """Services that are left out."""
    port: int = 8000
    prometheus_port: int = 9090
    name: str = field(default="forethought-proof", kw_only=True)

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def command(self) -> list[str]:
        """The words before every subcommand."""
        files = (COMPOSE_FILE, *self.overrides)
        return [*_program(), *(word for file in files for word in ("-f", str(file)))]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that say which project and profile, and where its ports are."""
        return {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_PROFILES": self.profile,
            "PORT": str(self.port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
        }

    def run(self, *words: str, seconds: float = 300) -> str:
        """Run a subcommand; return what it wrote. Raises CalledProcessError, TimeoutExpired."""
        return _run([*self.command, *words], self.environment, seconds)

    def up(self, *, build: bool = True) -> None:
        """Start everything, and wait until what others wait for is healthy."""
        left_out = (word for each in self.without for word in ("--scale", f"{each}=0"))
        built = ("--build",) if build else ()
        self.run("up", "-d", *built, *left_out, seconds=_START_S)

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's containers."""
        return self.run("ps", "-q", service).split()

    def first_key(self, service: str) -> str:
        """Read the key that was made at the first start."""
        return docker("exec", self.containers(service)[0], "cat", KEY_FILE).strip()


@contextmanager
def running(project: Project, *, build: bool, keep: bool) -> Iterator[Project]:
    """Start a project, and take it down with its volumes after; `keep` leaves it as it is."""
    try:
        project.up(build=build)
        yield project
    finally:
        if not keep:
            project.run("down", "--volumes", "--timeout", "20")


def docker(*words: str) -> str:
    """Run a command of Docker's own."""
    return _run(["docker", *words], dict(os.environ), 300)


def logs(container: str) -> str:
    """Return all that a container has written."""
    return _run(["docker", "logs", container], dict(os.environ), 300, stderr=subprocess.STDOUT)


def _program() -> list[str]:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        raise SystemExit("neither `docker compose` nor `docker-compose` is installed")
    return ["docker-compose"]


def _run(
    command: Sequence[str], environment: dict[str, str], seconds: float, stderr: int | None = None
) -> str:
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=True,
        timeout=seconds,
    )
    return done.stdout
