"""Recipes: what is wrong in one is named, `--set` in all its forms, pipelines, quick help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import training.recipes
from training.methods.sft import SFT
from training.recipe import Pipeline, Recipe, RecipeError, read_recipe

HEAVY = ("vllm", "torch", "transformers", "trl", "peft", "datasets")
PLAIN = """
model = "m"
[method]
type = "sft"
learning_rate = 1e-4
[data]
train = ["rows.jsonl"]
[training]
betas = [0.9, 0.95]
"""
STAGES = """
name = "whole"
model = "m"
[method]
type = "sft"
[data]
train = ["rows.jsonl"]
[training]
epochs = 2
batch_size = 4
[[stages]]
name = "first"
[[stages]]
name = "second"
model = "stage:first"
teacher = "stage:first"
[stages.method]
type = "distillation"
student_share = 1.0
[stages.rollouts]
backend = "model"
[stages.training]
epochs = 3
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "it.toml"
    path.write_text(text)
    return path


def read(tmp_path: Path, text: str, *changes: str) -> Recipe:
    found = read_recipe(written(tmp_path, text), changes)
    assert isinstance(found, Recipe)
    return found


def test_a_recipe_is_its_file_with_defaults(tmp_path: Path) -> None:
    recipe = read(tmp_path, PLAIN)
    assert (recipe.name, recipe.model, recipe.adapter) == ("it", "m", None)
    assert isinstance(recipe.method, SFT)
    assert recipe.method.learning_rate == 1e-4
    assert recipe.training.betas == (0.9, 0.95)
    resolved = recipe.resolved()
    assert resolved["training"]["max_grad_norm"] == 1.0
    assert Recipe.model_validate(resolved) == recipe


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("betas = ", "beta = ", "it.toml: training.beta: Extra inputs are not permitted"),
        ("learning_rate = 1e-4", "lerning_rate = 1", "it.toml: method.lerning_rate: Extra"),
        ("learning_rate = 1e-4", "learning_rate = -1", "it.toml: method.learning_rate: Input"),
        ('"sft"', '"stf"', "it.toml: method: `type` 'stf' is none; methods are a2c, "),
        ('type = "sft"\n', "", "it.toml: method: `type` is missing; methods are "),
        ("[method]\n", "[[method]]\n", "it.toml: method: "),
        ('model = "m"', "", "it.toml: model: Field required"),
        ('train = ["rows.jsonl"]', "", "it.toml: data: say either `train` files or a `task`"),
        ("[data]", '[adapter]\ntype = "lora"\nrank = 3\n[data]', "it.toml: adapter.rank: Extra"),
        ("[data]", '[adapter]\ntype = "lara"\n[data]', "`type` 'lara' is none; adapters are "),
        ("[data]", "[data", "it.toml: not TOML: "),
        ('model = "m"', 'model = "m"\nname = "A B"', "it.toml: name: String should match"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in PLAIN
    with pytest.raises(RecipeError) as raised:
        read(tmp_path, PLAIN.replace(old, new))
    assert complaint in str(raised.value)


def test_every_fault_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        read(tmp_path, PLAIN, "training.epochs=0", "method.beta=1", "modle=x")
    assert len(str(raised.value).splitlines()) == 3


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml: No such file"):
        read_recipe(tmp_path / "none.toml")


def test_what_a_method_needs_is_asked_for(tmp_path: Path) -> None:
    drawing = PLAIN.replace('"sft"', '"rejection_sampling"')
    with pytest.raises(RecipeError, match=r"'rejection_sampling' draws replies: say `\[rollouts\]"):
        read(tmp_path, drawing)
    with pytest.raises(RecipeError, match=r"rewarded by verifiers: say `\[\[rewards\]\]`"):
        read(tmp_path, drawing, "rollouts.backend=model")
    rewarded = read(tmp_path, drawing, "rollouts.backend=model", 'rewards=[{"verifier": "math"}]')
    assert rewarded.rewards[0].label == "math"


def test_set_lays_values_over_the_file(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        PLAIN,
        "model=other=one",  # all behind the first equals sign
        'data.train=["a.jsonl", "b.jsonl"]',
        "data.strict=true",
        "training.epochs=0.5",
        "training.schedule=cosine",
        'adapter={"type": "lora", "r": 2}',
        "adapter.r=8",
        "training.arguments.optim=adafactor",
        "name=3-x",
        'teacher="7"',
    )
    assert (recipe.model, recipe.name, recipe.teacher) == ("other=one", "3-x", "7")
    assert (recipe.data.train, recipe.data.strict) == (("a.jsonl", "b.jsonl"), True)
    assert (recipe.training.epochs, recipe.training.schedule) == (0.5, "cosine")
    assert recipe.adapter is not None
    assert recipe.adapter.model_dump()["r"] == 8
    assert recipe.training.arguments == {"optim": "adafactor"}
    task = read(tmp_path, PLAIN, "data.train=[]", "data.task=reasoning_gym:chain_sum")
    assert task.data.task == "reasoning_gym:chain_sum"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("training.epochs", "--set training.epochs: not KEY=VALUE"),
        ("=3", "--set =3: not KEY=VALUE"),
        ("training..epochs=3", "not KEY=VALUE"),
        ("model.name=3", "--set model.name=3: 'model' is no table"),
        ("stages.first.model=x", "there is no such stage"),
        ("training.epochs=many", "training.epochs: Input should be a valid number"),
    ],
)
def test_a_wrong_set_is_named(tmp_path: Path, change: str, complaint: str) -> None:
    with pytest.raises(RecipeError) as raised:
        read(tmp_path, PLAIN, change)
    assert complaint in str(raised.value)


def test_stages_are_laid_over_what_they_share(tmp_path: Path) -> None:
    path = written(tmp_path, STAGES)
    found = read_recipe(path, ["stages.first.model=x", "training.batch_size=2", "name=renamed"])
    assert isinstance(found, Pipeline)
    first, second = found.stages
    assert (found.name, first.name, second.name) == ("renamed", "first", "second")
    assert (first.model, second.model) == ("x", "stage:first")
    assert (first.method.model_dump()["type"], second.method.model_dump()["type"]) == (
        "sft",
        "distillation",
    )
    assert [each.training.epochs for each in found.stages] == [2, 3]
    assert [each.training.batch_size for each in found.stages] == [2, 2]
    assert "rationale_weight" not in second.method.model_dump()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('model = "stage:first"', 'model = "stage:third"', "no stage 'third' is before it"),
        ('teacher = "stage:first"', 'teacher = "stage:second"', "no stage 'second' is before"),
        ('name = "second"', 'name = "first"', "two stages are called 'first'"),
        ('name = "second"', "", "stages.1.name: Field required"),
        ("student_share", "share", "stages.1.method.share: Extra inputs"),
    ],
)
def test_stages_that_do_not_fit(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(RecipeError) as raised:
        read_recipe(written(tmp_path, STAGES.replace(old, new)))
    assert complaint in str(raised.value)


SHIPPED = sorted(Path(next(iter(training.recipes.__path__))).glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_recipes(path: Path) -> None:
    found = read_recipe(path)
    assert found.name == path.stem.replace("_", "-")


def test_a_task_gives_way_to_files() -> None:
    path = next(path for path in SHIPPED if path.stem == "rejection_sampling")
    found = read_recipe(path, ["data.task=null", 'data.train=["x.jsonl"]', "data.problems=null"])
    assert isinstance(found, Recipe)
    assert (found.data.task, found.data.train) == (None, ("x.jsonl",))


def test_help_and_a_wrong_recipe_are_quick(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN.replace('"sft"', '"stf"'))
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "import typer\n"
        "from training.commands.train import train\n"
        "app = typer.Typer(); app.command()(train)\n"
        "told = CliRunner().invoke(app, ['--help'])\n"
        "assert told.exit_code == 0 and '--set' in told.output, told.output\n"
        f"wrong = CliRunner().invoke(app, [{str(path)!r}])\n"
        "assert wrong.exit_code == 1 and \"'stf' is none\" in wrong.output, wrong.output\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
