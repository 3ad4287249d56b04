"""The snippets of background requests, responses and completions do as the document says."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

from server.settings import BackgroundSettings, Settings
from tests.server.local import Local, local
from tests.server.serving import FORETHOUGHT, environment
from tests.tables import ROOT

URL = "http://127.0.0.1:8000"
TEXT = (ROOT / "docs" / "operations.md").read_text()


def snippet(title: str, language: str) -> str:
    """Find the only snippet of a language in a section."""
    section = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(found)


def run(*command: str) -> str:
    path = f"{FORETHOUGHT.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment() | {"PATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    with local() as served:
        yield served


def test_a_background_request(server: Local) -> None:
    told = run("bash", "-c", snippet("Background requests", "bash").replace(URL, server.url))
    frames = [line for line in told.splitlines() if line.startswith("data: {")]
    assert json.loads(frames[-1].removeprefix("data: "))["status"] == "completed"
    assert told.strip().endswith("data: [DONE]")


def test_settings() -> None:
    tree = tomllib.loads(snippet("Background requests", "toml"))
    assert Settings.model_validate(tree).background == BackgroundSettings()
    assert tree["background"].keys() == BackgroundSettings.model_fields.keys()


def test_responses(server: Local) -> None:
    told = run(sys.executable, "-c", snippet("Responses", "python").replace(URL, server.url))
    assert len(told.splitlines()) >= 2


def test_a_completion(server: Local) -> None:
    told = run("bash", "-c", snippet("Completions", "bash").replace(URL, server.url))
    assert json.loads(told)["choices"][0]["text"]
