"""What holds for every training method and every adapter, those that are added tomorrow too."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

import training
from training.adapters.base import adapter_classes
from training.base import method_classes
from training.recipe import Pipeline, Recipe, read_recipe
from training.rows import ROWS
from verifiers.discovery import summary
from verifiers.manifest import KINDS

METHODS = method_classes()
ADAPTERS = adapter_classes()
CLASSES: dict[str, type[BaseModel]] = {
    **METHODS,
    **{f"{n} adapter": c for n, c in ADAPTERS.items()},
}
RECIPES = sorted((Path(training.__file__).parent / "recipes").glob("*.toml"))
HEAVY = ("torch", "transformers", "trl", "peft", "vllm", "datasets", "matplotlib")


@pytest.mark.parametrize("name", CLASSES)
def test_it_says_what_it_is(name: str) -> None:
    cls = CLASSES[name]
    assert summary(cls).endswith((".", ":"))
    assert (inspect.getdoc(cls) or "") != inspect.getdoc(cls.__mro__[1])
    assert not [
        key
        for key, field in cls.model_fields.items()
        if not field.description and key != "type" and field.annotation is not bool
    ]
    assert getattr(cls, "paper", "")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_file_of_its_name(name: str) -> None:
    cls = METHODS[name]
    source = Path(inspect.getfile(cls))
    assert source.stem == name
    assert cls.makes in KINDS
    assert cls.rows in ROWS.values()
    assert not cls.rewarded or cls.on_policy
    imported = {
        node.module or ""
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.ImportFrom)
    }
    others = {f"training.methods.{each}" for each in METHODS} - {f"training.methods.{name}"}
    assert not imported & others, "methods share by a file that is none"


@pytest.mark.parametrize("name", METHODS)
def test_its_parameters_have_defaults(name: str) -> None:
    made = METHODS[name]()
    assert made.learning_rate > 0
    assert METHODS[name].model_validate(made.model_dump()) == made


def test_descriptions_cost_no_heavy_import() -> None:
    program = (
        "import sys\n"
        "from training.base import method_classes\n"
        "from training.adapters.base import adapter_classes\n"
        "import training.recipe, training.commands.train\n"
        "method_classes(); adapter_classes()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_one(path: Path) -> None:
    tree = tomllib.loads(path.read_text())
    stages = tree.get("stages", [tree])
    missing = not any(
        "train" in each.get("data", {}) or "task" in each.get("data", {})
        for each in [tree, *stages]
    )
    changes = ['data.train=["rows.jsonl"]'] if missing else []
    assert isinstance(read_recipe(path, changes), Recipe | Pipeline)
    assert path.read_text().startswith("#"), "it says what it is for"
