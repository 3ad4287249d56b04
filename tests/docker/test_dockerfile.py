"""The Dockerfile: pinned, not root, nothing secret, layers in the order in which they change."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from loadtests.compose import ROOT
from tests.docker.test_compose import services

DOCKERFILE = ROOT / "docker" / "Dockerfile"
CONSTRAINTS = ROOT / "docker" / "constraints"
TARGETS = ("core", "cpu", "gpu", "sandbox", "router")


class Stage(NamedTuple):
    base: str
    steps: Sequence[tuple[str, str]]


@cache
def stages() -> Mapping[str, Stage]:
    """Read the stages by name: each has its base, and its steps as (instruction, words)."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    steps: list[tuple[str, str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        instruction, _, words = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = words.partition(" AS ")
            steps = []
            found[name] = Stage(base, steps)
        elif instruction:
            steps.append((instruction, " ".join(words.split())))
    return found


def lineage(target: str) -> list[tuple[str, str]]:
    """Return all steps that an image is made of, in order."""
    stage = stages().get(target)
    return [] if stage is None else [*lineage(stage.base), *stage.steps]


def last(target: str, instruction: str) -> str:
    return [words for name, words in lineage(target) if name == instruction][-1]


def test_every_target_that_compose_builds_is_there() -> None:
    built = {each["build"]["target"] for each in services().values() if "build" in each}
    assert built == set(TARGETS) <= set(stages())


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_and_says_how_it_is(target: str) -> None:
    assert last(target, "USER") == "forethought"
    assert last(target, "HEALTHCHECK").count("--") == 4
    assert last(target, "ENTRYPOINT").startswith('["tini", "--"')


def test_a_server_is_healthy_when_it_is_ready() -> None:
    for target in ("core", "cpu", "gpu"):
        assert "http://127.0.0.1:8000/readyz" in last(target, "HEALTHCHECK")


def test_what_is_below_is_named_by_an_argument() -> None:
    own = set(stages())
    assert {stage.base for stage in stages().values()} - own == {"${PYTHON_IMAGE}"}
    [default] = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", default)


def test_no_step_takes_a_secret() -> None:
    for name, stage in stages().items():
        for instruction, words in stage.steps:
            assert instruction != "ADD"
            if instruction in ("ARG", "ENV"):
                assert not re.search("key|token|secret|password", words, re.IGNORECASE), words
            if instruction == "ARG":
                assert name == "core-dependencies", "an argument stays in the image's history"


@pytest.mark.parametrize("target", TARGETS)
def test_the_code_is_the_last_layer(target: str) -> None:
    copies = [words for name, words in lineage(target) if name == "COPY"]
    if target != "router":
        assert copies[-1].startswith("--from=source")
    assert not [words for words in copies if words.startswith(". ")]
    dependencies = stages()["core-dependencies"].steps
    copied = [words for name, words in dependencies if name == "COPY"]
    assert copied == [
        "pyproject.toml ./",
        "docker/install.sh docker/",
        "docker/constraints/cpu.txt docker/constraints/",
    ]


def test_no_target_waits_for_another_s_engine() -> None:
    """The older builder of Docker builds every stage that stands before the target."""
    order = list(stages())
    for small in ("core", "sandbox", "router"):
        assert order.index(small) < order.index("cpu-dependencies")
    assert order.index("cpu") < order.index("gpu-dependencies")


def test_packages_lists_are_not_kept() -> None:
    for stage in stages().values():
        for instruction, words in stage.steps:
            if instruction == "RUN" and "apt-get install" in words:
                assert "--no-install-recommends" in words
                assert "rm -rf /var/lib/apt/lists/*" in words


def pins(name: str) -> dict[str, str]:
    lines = (CONSTRAINTS / f"{name}.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    for each in pinned:
        assert re.fullmatch(r"==[^,*+]+", str(each.specifier)), each
    return {canonicalize_name(each.name): str(each.specifier)[2:] for each in pinned}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_pins_are_what_the_project_asks_for(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins(name)
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *extras[name], *extras["telemetry"]]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), line
    assert f"torch=={pinned['torch']}" in (ROOT / "docker" / "install.sh").read_text()


def test_the_router_is_pinned_with_what_it_needs() -> None:
    assert "vllm-router" in pins("router")


def test_only_what_is_needed_reaches_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert let_in == {
        *("pyproject.toml", "LICENSE", "README.md", "docker/install.sh", "docker/constraints"),
        *("server", "strategies", "verifiers", "loadtests", "training"),
    }
