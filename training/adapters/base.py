"""What a parameter-efficient adapter is: one class per file, chosen by the recipe's `[adapter]`."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

import training.adapters
from verifiers.discovery import discover

if TYPE_CHECKING:
    from transformers import TrainerCallback

CONFIG = "adapter_config.json"
"""What peft writes beside an adapter's weights, and ours do too: `peft_type` says which it is."""


class AdapterError(ValueError):
    """An adapter cannot be trained as the recipe says; the message says why."""


class Adapter(BaseModel, ABC):
    """Few weights trained beside a frozen model. The fields are its configuration.

    A subclass declares its name as `type: Literal["name"] = "name"`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    paper: ClassVar[str] = ""
    peft_type: ClassVar[str]
    """What its saved configuration calls it."""
    mergeable: ClassVar[bool] = True
    """Whether its effect can be put into the weights of the model below."""

    @property
    def served(self) -> bool:
        """Whether vLLM serves it as it is; others are served merged, or not at all."""
        return False

    def load_arguments(self) -> dict[str, Any]:
        """Return what the base model's `from_pretrained` must be told (a quantisation, say)."""
        return {}

    @abstractmethod
    def apply(self, model: Any, *, task: str = "CAUSAL_LM", steps: int | None = None) -> Any:
        """Freeze the model, put the adapter into it, and return what is to be trained.

        `task` is peft's TaskType; `steps` the number of optimizer steps, for schedules.

        Raises:
            AdapterError: it does not fit the model or the recipe.
        """

    def resume(self, model: Any, directory: Path) -> Any:
        """Put a saved adapter of this kind into the model, to train it further as it was made.

        Raises:
            AdapterError: it is of another kind.
        """
        from peft import PeftModel

        self.check_kind(directory)
        wrapped = PeftModel.from_pretrained(model, directory, is_trainable=True)
        # Manifests' names of models are none that peft could look up when it saves.
        wrapped.active_peft_config.base_model_name_or_path = model.name_or_path
        return wrapped

    def check_kind(self, directory: Path) -> None:
        """Raise AdapterError if the adapter in a directory is of another kind."""
        found = json.loads((directory / CONFIG).read_text())["peft_type"]
        if found != self.peft_type:
            raise AdapterError(
                f"{directory} is an adapter of kind {found}, and [adapter] says {self.peft_type}: "
                f"an adapter is trained further by its own kind; without [adapter] one that can be "
                f"is merged, and all weights are trained"
            )

    def callbacks(self) -> Sequence[TrainerCallback]:
        """Return what must happen at the trainer's steps, and what its states lack."""
        return ()

    def merged(self, model: Any) -> Any:
        """Return the plain model with the adapter's effect in its weights."""
        return model.merge_and_unload()

    def save(self, model: Any, directory: Path) -> None:
        """Write what is published: the adapter where it is served or cannot be merged."""
        kept = self.served or not self.mergeable
        (model if kept else self.merged(model)).save_pretrained(directory)


def name_base(directory: Path, name: str) -> None:
    """Name a saved adapter's base as manifests do: peft writes the path that it was loaded from."""
    path = directory / CONFIG
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": name}, indent=1) + "\n")
    (directory / "README.md").unlink(missing_ok=True)


def adapter_classes() -> dict[str, type[Adapter]]:
    """Return every adapter of this package by its name."""
    return discover(training.adapters, Adapter)  # type: ignore[type-abstract]
