"""Houlsby's adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from training.adapters.base import Adapter


class Bottleneck(Adapter):
    """Put h + W₂ GELU(W₁ h + b₁) + b₂ behind the attention and the feed-forward of every layer.

    1902.00751, with the norms of the layers trained as well. W₂ begins at 0, so that the model
    begins as it was, where the paper's begins near it. Cannot be merged, nor served by vLLM;
    transformers evaluates it.
    """

    type: Literal["bottleneck"] = "bottleneck"
    paper: ClassVar[str] = (
        "Houlsby et al., Parameter-Efficient Transfer Learning for NLP, 1902.00751"
    )
    peft_type: ClassVar[str] = "BOTTLENECK"
    mergeable: ClassVar[bool] = False

    size: int = Field(64, ge=1, description="Width of the bottleneck.")
    norms: bool = Field(True, description="Train the layers' norms too.")

    def apply(self, model: Any, *, task: str = "CAUSAL_LM", steps: int | None = None) -> Any:  # noqa: ARG002
        """Add the modules. Raises AdapterError for an architecture without such layers."""
        from training.bottleneck import add_bottlenecks

        return add_bottlenecks(model, self.size, norms=self.norms, task=task)

    def resume(self, model: Any, directory: Path) -> Any:
        """Add the modules as they were saved."""
        from training.bottleneck import load_bottlenecks

        self.check_kind(directory)
        return load_bottlenecks(model, directory, trainable=True)

    def save(self, model: Any, directory: Path) -> None:
        """Write the trained weights and what they are."""
        from training.bottleneck import save_bottlenecks

        save_bottlenecks(model, directory)
