"""The documents do as they say: snippets run, and what they name exists.

`python -m tests.test_docs` writes their tables anew.
"""

import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from server.checkpoints.store import CheckpointStore
from server.consistency import build_verifiers, check
from server.plugins import find_classes
from server.settings import Settings
from strategies.base import Parallel, Strategy, strategy_classes
from tests.server.published import publish
from tests.server.serving import FORETHOUGHT, Served, environment, serving
from tests.strategies.harness import Bench
from tests.tables import (
    README,
    ROOT,
    STRATEGIES,
    TRAINING,
    TUTORIAL,
    VERIFIERS,
    code_lines,
    tables,
    with_tables,
    worths,
    write,
)
from training.adapters.base import adapter_classes
from training.base import method_classes
from training.recipe import read_recipe
from verifiers.base import verifier_classes
from verifiers.discovery import discover

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
OPERATIONS = ROOT / "docs" / "operations.md"
PAGES = (README, CONTRIBUTING, OPERATIONS, STRATEGIES, TRAINING, VERIFIERS, TUTORIAL)
URL = "http://127.0.0.1:8000"
MODEL = "qwen2.5-coder-0.5b-instruct"
GROUPS = ("batches", "bench", "checkpoints", "keys")
"""Commands that have commands."""


def snippets(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


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


@cache
def described(command: str) -> str:
    return run([str(FORETHOUGHT), *command.split(), "--help"], COLUMNS="200")


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
    request, ask, _ = snippets(README, "bash")
    [shown] = snippets(README, "json")
    shape(json.loads(shown), json.loads(shell(request, server.url)))
    assert " calls" in shell(ask, server.url)


def test_recording(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, record = snippets(README, "bash")
    monkeypatch.chdir(tmp_path)
    small = record.replace("--samples 16 --problems 100", "--samples 1 --problems 2")
    assert small != record
    told = shell(small.replace("bench record", f"bench record --url {server.url}"), server.url)
    assert "2 rows written to pool" in told
    assert "2 rows, 2 problems complete" in told
    assert re.search("^gsm8k ", told, re.MULTILINE)


def test_verification(server: Served) -> None:
    [ask] = snippets(VERIFIERS, "bash")
    data = json.loads(shell(ask, server.url))["data"]
    assert [(each["score"], each["rank"]) for each in data] == [(1.0, 1), (0.0, 2)]


def test_python(server: Served) -> None:
    [program] = snippets(README, "python")
    assert run([sys.executable, "-c", program.replace(URL, server.url)]).strip()


@pytest.mark.parametrize("path", [README, VERIFIERS], ids=lambda path: path.stem)
def test_configuration(path: Path) -> None:
    [document] = snippets(path, "toml")
    settings = Settings.model_validate(tomllib.loads(document))
    verifiers = build_verifiers(settings, verifier_classes())
    check(settings, strategy_classes(), verifiers)


@pytest.mark.parametrize("path", tables(), ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_are_generated(path: Path) -> None:
    assert with_tables(path) == path.read_text(), "write them anew: python -m tests.test_docs"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_options_and_settings_exist(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE)) <= targets
    for line in re.findall(r"(?:^|`)(forethought [a-z][^`\n]*)", text, re.MULTILINE):
        words = shlex.split(line.split(" makes ")[0], comments=True)[1:]
        depth = 1 + (words[0] in GROUPS)
        command, rest = " ".join(words[:depth]), words[depth:]
        said = described(command)
        for option in (word for word in rest if word.startswith("--")):
            assert option in said, f"forethought {command} has no {option}"
    for module in re.findall(r"python -m ((?:loadtests|tests|training)[.\w]*)", text):
        assert importlib.util.find_spec(module), module
    for variable in re.findall(r"FORETHOUGHT_([A-Z_]+)", text):
        names = variable.lower().split("__")
        assert names[0] in {*Settings.model_fields, "config", "cache"}, variable
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target


def test_defaults_that_are_named() -> None:
    text, settings = README.read_text(), Settings()
    budget = settings.budget
    assert f"{budget.max_tokens:,}, {budget.max_calls}, {budget.deadline_s:.0f}" in text
    effort = settings.reasoning_effort
    assert f"{effort.low:,}, {effort.medium:,} or {effort.high:,}" in text
    assert f"by default at {settings.default_max_completion_tokens:,} tokens" in text
    assert f"None named: `{settings.default_strategy}`" in text
    assert f"None named: `{settings.default_verifier}`" in text


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that the tutorial's files are put into."""
    package = tmp_path / "forethought_short"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
        del sys.modules[name]


def learned(package: Path, program: str) -> Strategy:
    """Put a step into the package as the file that it says it is, and find it there."""
    [name] = re.findall(r'^    type: Literal\["(\w+)"\]', program, re.MULTILINE)
    (package / f"{name}.py").write_text(program)
    found = discover(importlib.import_module(package.name), Strategy)  # type: ignore[type-abstract]
    assert name in found
    return found[name]()


*STEPS, CONFORMANCE = snippets(TUTORIAL, "python")


@pytest.mark.parametrize("step", range(len(STEPS)))
async def test_each_step_of_the_tutorial_runs(lessons: Path, step: int) -> None:
    strategy = learned(lessons, STEPS[step])
    bench = Bench(n=2)
    outcome = await bench.run(strategy)
    assert len(outcome.choices) == 2
    assert all(each.done for each in outcome.choices)
    assert bench.ledger.total.completion_tokens == bench.engine.log["tokens"]  # type: ignore[attr-defined]
    early = "session.decided()" in STEPS[step]
    assert (outcome.stopped_by == "decided") == early == bool(bench.engine.log["aborted"])  # type: ignore[attr-defined]


def test_the_tutorials_package_is_served(lessons: Path) -> None:
    for program in STEPS:
        learned(lessons, program)
    project, settings = (tomllib.loads(each) for each in snippets(TUTORIAL, "toml"))
    about = lessons.with_name(f"{lessons.name}-1.0.dist-info")
    about.mkdir()
    name = project["project"]["name"]
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = project["project"]["entry-points"]
    entries = [
        f"[{group}]\n" + "\n".join(map(" = ".join, groups[group].items())) for group in groups
    ]
    (about / "entry_points.txt").write_text("\n".join(entries))
    assert project["tool"]["setuptools"]["packages"] == [lessons.name]
    served = Settings.model_validate(settings)
    own, ours = set(strategy_classes()), set(find_classes(served.plugins).strategies)
    assert ours - own == {"short", "best_step"}


@pytest.mark.slow
def test_the_tutorials_strategies_conform(lessons: Path) -> None:
    for program in STEPS:
        learned(lessons, program)
    (lessons.parent / "test_short.py").write_text(CONFORMANCE)
    [command] = re.findall(r"`\S+/python (-m pytest [^`]*)`", TUTORIAL.read_text())
    words = command.replace("PATH", str(lessons.parent)).split()
    told = run(
        [sys.executable, *words, "-q", "-p", "no:cacheprovider"], PYTHONPATH=str(lessons.parent)
    )
    assert "3 passed" in told


def test_the_changelog_names_every_strategy_and_method() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    named = {**strategy_classes(), **method_classes(), **adapter_classes()}
    assert not [name for name in named if f"`{name}`" not in text]


def test_recipes_and_settings_of_training(tmp_path: Path) -> None:
    recipes, settings, whole = 0, 0, ""
    store = CheckpointStore(tmp_path / "checkpoints")
    for name, kind in {"solver": "lora", "genrm": "generative", "reward": "orm"}.items():
        store.promote(publish(store, name, kind=kind).spec, force=True)
    for document in snippets(TRAINING, "toml"):
        tree = tomllib.loads(document)
        if document.startswith("# in a recipe"):
            document = f"{whole}\n{document}"
            tree = tomllib.loads(document)
        if "method" in tree:
            (tmp_path / "recipe.toml").write_text(document)
            assert read_recipe(tmp_path / "recipe.toml")
            whole = document
            recipes += 1
        else:
            checked = Settings.model_validate({**tree, "checkpoints": store.root})
            check(checked, strategy_classes(), build_verifiers(checked, verifier_classes()))
            settings += 1
    assert (recipes, settings) == (3, 2)


def test_the_guide_names_strategies_that_exist() -> None:
    guide = STRATEGIES.read_text().partition("## Which one?")[2].partition("## ")[0]
    named = set(re.findall(r"`([a-z_]+)`", guide)) - {"scaling"}
    assert named
    assert named <= set(strategy_classes())


def test_lines_of_code_are_counted_without_words() -> None:
    said = Path(inspect.getfile(Parallel))
    assert 0 < code_lines(said) < len(said.read_text().splitlines())


def test_worth_is_read_by_strategy(tmp_path: Path) -> None:
    kept = tmp_path / "worth.json"
    assert worths(kept) == {"on the pools": {}}
    played = {"early_stopping": [[1, 5, 100], [0, 16, 300]], "best_of_n, random": [[0.25, 16, 400]]}
    kept.write_text(json.dumps({"orders": 3, "pools": {"a model, 2 problems:": played}}))
    [(title, cells)] = worths(kept).items()
    assert title.startswith("a model, 2 problems")
    assert cells == {"early_stopping": "50.0 %, 200", "best_of_n": "random: 25.0 %, 400"}


if __name__ == "__main__":
    write()
