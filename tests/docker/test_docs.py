"""The sections on deployment of docs/operations.md: what they name is there."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise

import pytest

from loadtests.compose import ROOT
from tests.docker.test_compose import COMPOSE_FILE, PROFILES, described

DOCKER = COMPOSE_FILE.parent
TEXT = (ROOT / "docs" / "operations.md").read_text()
SECTIONS = {
    name: re.split(r"^## ", TEXT.partition(f"\n## {name}\n")[2], flags=re.MULTILINE)[0]
    for name in ("Deployment", "Scaling out")
}


def variables(text: str) -> dict[str, str]:
    """Return the variables of compose files with their defaults."""
    return dict(re.findall(r"\$\{(\w+)(?::-([^}]*))?\}", text))


def rows(section: str) -> list[tuple[list[str], list[str]]]:
    """Return the names and the defaults of each row of a section's table."""
    cells = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", a), re.findall(r"`([^`]+)`", b)) for a, b in cells]


def test_every_variable_is_documented_with_its_default() -> None:
    known = variables(COMPOSE_FILE.read_text())
    documented = {}
    for section in SECTIONS.values():
        for names, defaults in rows(section):
            documented |= dict.fromkeys(names)
            if len(names) == len(defaults):
                for name, default in zip(names, defaults, strict=True):
                    assert known[name] == default, name
    assert set(documented) == set(known) - {"FORETHOUGHT_LOG_LEVEL"}


@pytest.mark.parametrize("section", SECTIONS)
def test_commands_name_what_is_there(section: str) -> None:
    lines = re.findall(r"^docker compose .*$", SECTIONS[section], re.MULTILINE)
    assert lines
    for line in lines:
        words = shlex.split(line)
        for flag, value in pairwise(words):
            if flag == "-f":
                assert (ROOT / value).is_file()
            if flag == "--profile":
                assert value in PROFILES
            if flag == "exec":
                assert value in described()["services"]


def test_volumes_and_targets_that_are_named() -> None:
    text = SECTIONS["Deployment"]
    for volume in described()["volumes"]:
        assert f"`{volume}`" in text
    for path in re.findall(r"`(docker/[\w./-]+)`", "".join(SECTIONS.values())):
        assert (ROOT / path).exists(), path
    for target in ("core", "cpu", "gpu", "sandbox", "router"):
        assert f"`{target}`" in text
