"""What a recipe is: the TOML file that says everything about one training run.

A pipeline is a recipe with `[[stages]]`: each stage is a recipe of its own, laid over what the
file says outside of them; `model = "stage:NAME"` begins with what an earlier stage made.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from training.adapters.base import Adapter, adapter_classes
from training.base import Method, method_classes
from training.evaluation.gate import GateSettings
from training.rewards import RewardSettings
from training.rollouts.base import RolloutSettings

NAME = "^[a-z0-9][a-z0-9._-]*$"
STAGE = "stage:"
"""Before the name of an earlier stage, where a model is named."""
Schedule: TypeAlias = Literal["linear", "cosine", "constant", "inverse_sqrt"]
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16"]


class RecipeError(ValueError):
    """A recipe is not one; one line for each thing that is wrong."""


class Section(BaseModel):
    """A table of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(Section):
    """`[data]`: rows of the method's kind, from files or from a task of the bench."""

    train: tuple[str, ...] = Field((), description="JSONL files, also .gz; directories; globs.")
    test: tuple[str, ...] = Field((), description="Rows to measure the loss on.")
    task: str | None = Field(
        None, description="A task of the bench, NAME or NAME:ARGUMENT: its prompts with answers."
    )
    problems: int | None = Field(None, ge=1, description="Only so many of the task's problems.")
    seed: int = Field(0, description="Of the task, and of splits.")
    strict: bool = Field(False, description="Stop at the first bad row.")

    @model_validator(mode="after")
    def _one_source(self) -> DataSettings:
        if bool(self.train) == (self.task is not None):
            raise ValueError("say either `train` files or a `task`")
        return self


class TrainingSettings(Section):
    """`[training]`: the optimisation, the same words for every method."""

    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; wins over `epochs`.")
    batch_size: int = Field(8, ge=1, description="Rows of a forward pass, on each device.")
    accumulate: int = Field(1, ge=1, description="Forward passes of an optimizer step.")
    schedule: Schedule = "linear"
    warmup_steps: float = Field(0, ge=0, description="Steps; below 1 a share of all.")
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(1024, ge=8, description="Tokens of a row; longer ones are told.")
    dtype: Dtype = Field(
        "auto",
        description="Of the weights. auto: bfloat16 below adapters, else float32 computed in "
        "bfloat16 where the machine can.",
    )
    gradient_checkpointing: bool = False
    seed: int = Field(0, ge=0)
    save_steps: int = Field(50, ge=1, description="Steps between states to resume from.")
    keep_states: int = Field(2, ge=1)
    log_steps: int = Field(1, ge=1)
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="Any other of transformers' TrainingArguments: fsdp, deepspeed, optim, …",
    )


def _chosen(value: Any, classes: Mapping[str, type[BaseModel]], what: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    name = value.get("type")
    if name not in classes:
        problem = "is missing" if name is None else f"{name!r} is none"
        raise ValueError(f"`type` {problem}; {what} are {', '.join(classes)}")
    return classes[str(name)].model_validate(value)


def _as_method(value: Any) -> Any:
    return _chosen(value, method_classes(), "methods")


def _as_adapter(value: Any) -> Any:
    return _chosen(value, adapter_classes(), "adapters")


class Recipe(Section):
    """One training run, or one stage of a pipeline."""

    name: str = Field(pattern=NAME, description="Of the run and of its checkpoints.")
    model: str = Field(
        min_length=1,
        description="Catalogue name, hub id, directory, checkpoint:NAME[@VERSION], stage:NAME.",
    )
    reference: str | None = Field(
        None, description="The frozen policy that losses compare with. Default: `model`."
    )
    teacher: str | None = Field(None, description="For distillation: a model like `model`.")
    method: Annotated[SerializeAsAny[Method], BeforeValidator(_as_method)]
    adapter: Annotated[SerializeAsAny[Adapter], BeforeValidator(_as_adapter)] | None = None
    data: DataSettings
    training: TrainingSettings = TrainingSettings()
    rollouts: RolloutSettings | None = None
    rewards: tuple[RewardSettings, ...] = ()
    gate: GateSettings | None = None
    promote: bool = Field(False, description="Promote the checkpoint once it passed the gate.")

    @model_validator(mode="after")
    def _says_what_the_method_needs(self) -> Recipe:
        if self.promote and self.gate is None:
            raise ValueError("`promote` is for checkpoints that pass a gate: say `[gate]`")
        method = self.method
        name = type(method).model_fields["type"].default
        if method.draws and self.rollouts is None:
            raise ValueError(f"method {name!r} draws replies: say `[rollouts]`")
        if method.rewarded and not self.rewards:
            raise ValueError(f"method {name!r} is rewarded by verifiers: say `[[rewards]]`")
        return self

    def models(self) -> list[str]:
        """Return whatever it calls a model, in rewards too."""
        found: list[str] = []

        def hear(named: str) -> str:
            found.append(named)
            return named

        self.with_models(hear)
        return found

    def with_models(self, follow: Callable[[str], str]) -> Recipe:
        """Return it with another word for each model that it names."""

        def followed(named: str | None) -> str | None:
            return None if named is None else follow(named)

        gate = self.gate
        if gate is not None:
            gate = gate.model_copy(update={"parent": followed(gate.parent)})
        return self.model_copy(
            update={
                "model": follow(self.model),
                "reference": followed(self.reference),
                "teacher": followed(self.teacher),
                "rewards": tuple(each.with_models(follow) for each in self.rewards),
                "gate": gate,
            }
        )

    def resolved(self) -> dict[str, Any]:
        """Return everything that the recipe says, defaults included, as JSON can write it."""
        return self.model_dump(mode="json", exclude_none=True)


class Pipeline(Section):
    """Stages in their order, each a recipe of its own."""

    name: str = Field(pattern=NAME)
    stages: tuple[Recipe, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _stages_that_exist(self) -> Pipeline:
        before: set[str] = set()
        for stage in self.stages:
            for named in stage.models():
                name = named.removeprefix(STAGE)
                if named.startswith(STAGE) and name not in before:
                    raise ValueError(f"stage {stage.name!r}: no stage {name!r} is before it")
            if stage.name in before:
                raise ValueError(f"two stages are called {stage.name!r}")
            before.add(stage.name)
        return self


def read_recipe(path: Path, changes: Iterable[str] = ()) -> Recipe | Pipeline:
    """Read a recipe, with `key=value` laid over it: dotted keys, JSON values or plain text.

    Of a pipeline, `stages.NAME.key=value` changes one stage, `key=value` every stage.

    Raises:
        RecipeError: the file cannot be read, or something in it is wrong; the message names it.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not TOML: {error}") from error
    stages = {each.get("name", ""): each for each in tree.get("stages", [])}
    for change in changes:
        _lay_over(tree, stages, change)
    try:
        if "stages" not in tree:
            return Recipe.model_validate({"name": path.stem, **tree})
        shared = {key: value for key, value in tree.items() if key not in ("name", "stages")}
        whole = [_merged(shared, stage) for stage in tree["stages"]]
        return Pipeline.model_validate({"name": tree.get("name", path.stem), "stages": whole})
    except ValidationError as error:
        raise RecipeError(_lines(path, error)) from error


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """Yield the dotted keys in which two resolved recipes differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            inner = f"{place}.{key}" if place else key
            yield from differences(before.get(key), after.get(key), inner)
    elif before != after:
        yield place


def _lay_over(tree: dict[str, Any], stages: Mapping[str, dict[str, Any]], change: str) -> None:
    key, equals, text = change.partition("=")
    keys = key.split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {change}: not KEY=VALUE")
    if keys[0] == "stages":
        if len(keys) < 3 or keys[1] not in stages:
            raise RecipeError(f"--set {change}: there is no such stage")
        tree, keys = stages[keys[1]], keys[2:]
    elif stages and keys[0] != "name":
        for stage in stages.values():  # a stage's own word must not win over the command line's
            _lay_over(stage, {}, change)
        return
    for each in keys[:-1]:
        tree = tree.setdefault(each, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"--set {change}: {each!r} is no table")
    tree[keys[-1]] = _value(text)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a stage over what all share; a table with another `type` replaces the one below."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            same = value.get("type") in (None, old.get("type"))
            value = _merged(old, value) if same else value
        merged[key] = value
    return merged


def _lines(path: Path, error: ValidationError) -> str:
    return "\n".join(
        f"{path}: {'.'.join(map(str, each['loc'])) or 'recipe'}: "
        f"{each['msg'].removeprefix('Value error, ')}"
        for each in error.errors()
    )
