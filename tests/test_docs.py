"""The documents do as they say: snippets run, and what they name exists.

`python -m tests.test_docs` writes the README's tables anew.
"""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from server.consistency import build_verifiers, check
from server.settings import Settings
from strategies.base import Parallel, Strategy, strategy_classes
from tests.server.serving import FORETHOUGHT, Served, environment, serving
from verifiers.base import verifier_classes
from verifiers.discovery import discover, summary

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
URL = "http://127.0.0.1:8000"
MODEL = "qwen2.5-coder-0.5b-instruct"


def snippets(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def parameters(cls: type[BaseModel]) -> str:
    """Name the fields of a class with their defaults."""
    told = []
    for name, field in cls.model_fields.items():
        if name == "type":
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        if field.is_required():
            told.append(f"`{name}` (required)")
        elif default is None or len(str(default)) > 20:
            told.append(f"`{name}`")
        else:
            told.append(f"`{name}` {default}")
    return ", ".join(told)


def table(classes: Mapping[str, type[Any]], names: str, title: str) -> str:
    lines = [f"| {names} | what it does | {title} | paper |", "|---|---|---|---|"]
    for name, cls in classes.items():
        told = parameters(cls if issubclass(cls, Strategy) else cls.Fields)
        lines.append(f"| `{name}` | {summary(cls)} | {told} | {cls.paper} |")
    return "\n".join(lines)


def tables() -> dict[str, str]:
    return {
        "strategies": table(strategy_classes(), "strategy", "parameters"),
        "verifiers": table(verifier_classes(), "verifier", "fields of the request"),
    }


def with_tables(text: str) -> str:
    for name, written in tables().items():
        before, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        assert closing, name
        text = f"{before}{opening}{written}\n{closing}{after}"
    return text


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving("--model", MODEL) as served:
        yield served


def run(command: list[str], **variables: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment() | variables,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shell(snippet: str, url: str) -> str:
    """Run a shell snippet of the README against the server at `url`."""
    snippet = snippet.replace(URL, url)
    snippet = re.sub(r"^forethought ask", f"forethought ask --url {url}", snippet)
    path = f"{FORETHOUGHT.parent}{os.pathsep}{os.environ['PATH']}"
    return run(["bash", "-c", snippet], PATH=path)


def shape(shown: Any, real: Any, place: str = "answer") -> None:
    """Check that all keys that are shown are real, with values of their type."""
    if isinstance(shown, dict):
        assert isinstance(real, dict), place
        for key, value in shown.items():
            assert key in real, f"{place}.{key} is not in the real answer"
            shape(value, real[key], f"{place}.{key}")
    elif isinstance(shown, list):
        shape(shown[0], real[0], f"{place}[0]")
    elif shown is not None and real is not None:
        kinds = (int, float) if isinstance(shown, int | float) else type(shown)
        assert isinstance(real, kinds), place


def test_first_line_says_what_it_is_and_then_come_the_two_commands() -> None:
    lines = README.read_text().splitlines()
    assert "test-time scaling inference server" in lines[0]
    assert [line.split("#")[0].strip() for line in snippets(README, "sh")[0].splitlines()] == [
        "make serve",
        "make test",
    ]


def test_request_and_answer(server: Served) -> None:
    request, ask = snippets(README, "bash")
    [shown] = snippets(README, "json")
    shape(json.loads(shown), json.loads(shell(request, server.url)))
    assert " calls" in shell(ask, server.url)


def test_python(server: Served) -> None:
    [program] = snippets(README, "python")
    assert run([sys.executable, "-c", program.replace(URL, server.url)]).strip()


def test_configuration() -> None:
    [document] = snippets(README, "toml")
    settings = Settings.model_validate(tomllib.loads(document))
    verifiers = build_verifiers(settings, verifier_classes())
    check(settings, strategy_classes(), verifiers)


def test_tables_are_generated() -> None:
    assert with_tables(README.read_text()) == README.read_text(), (
        "write them anew: python -m tests.test_docs"
    )


@pytest.mark.parametrize("path", [README, CONTRIBUTING], ids=lambda path: path.name)
def test_commands_options_and_settings_exist(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE))
    assert named, "no make target is named"
    assert named <= targets
    for line in re.findall(r"forethought (?:serve|ask|pull|models)\b[^`\n]*", text):
        command, *rest = shlex.split(line.split(" makes ")[0], comments=True)[1:]
        said = run([str(FORETHOUGHT), command, "--help"], COLUMNS="200")
        for option in (word for word in rest if word.startswith("--")):
            assert option in said, f"forethought {command} has no {option}"
    for variable in re.findall(r"FORETHOUGHT_([A-Z_]+)", text):
        names = variable.lower().split("__")
        assert names[0] in {*Settings.model_fields, "config", "cache"}, variable
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target


def test_defaults_that_are_named() -> None:
    text, settings = README.read_text(), Settings()
    budget = settings.budget
    assert f"{budget.max_tokens:,}, {budget.max_calls}, {budget.deadline_s:.0f}" in text
    assert f"by default at {settings.default_max_completion_tokens:,} tokens" in text
    assert f"None named: `{settings.default_strategy}`" in text
    assert f"None named: `{settings.default_verifier}`" in text


def test_example_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [program] = snippets(CONTRIBUTING, "python")
    package = tmp_path / "example_strategies"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "shortest.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    found = discover(importlib.import_module("example_strategies"), Parallel)  # type: ignore[type-abstract]
    assert found["shortest"](n=5).samples(1) == 5


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
