"""Rescaling of keys, values and inner activations."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from training.adapters.base import Adapter


class IA3(Adapter):
    """Multiply keys, values and feed-forward activations by learned vectors, 1 at the start.

    (IA)³, 2205.05638. Published merged. The paper's learning rate is 3e-3.
    """

    type: Literal["ia3"] = "ia3"
    paper: ClassVar[str] = (
        "Liu et al., Few-Shot Parameter-Efficient Fine-Tuning Is Better and Cheaper, 2205.05638"
    )
    peft_type: ClassVar[str] = "IA3"

    targets: tuple[str, ...] = Field(
        ("k_proj", "v_proj", "down_proj"), description="Names of the scaled matrices."
    )
    feed_forward: tuple[str, ...] = Field(
        ("down_proj",), description="Those of them whose input is scaled, not their output."
    )

    def apply(self, model: Any, *, task: str = "CAUSAL_LM", steps: int | None = None) -> Any:  # noqa: ARG002
        """Wrap by peft."""
        from peft import IA3Config, get_peft_model

        config = IA3Config(
            target_modules=list(self.targets),
            feedforward_modules=list(self.feed_forward),
            task_type=task,
        )
        return get_peft_model(model, config)
