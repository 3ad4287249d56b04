"""LoRA, and its variants that are one flag away."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from training.adapters.base import Adapter


class LoRA(Adapter):
    """Add (α / r) · B A to frozen matrices, B = 0 at the start.

    LoRA, 2106.09685; by flags DoRA (2402.09353), which trains the columns' magnitudes apart from
    their direction, and rsLoRA (2312.03732), which scales by α / √r. vLLM serves all but DoRA as
    they are; a DoRA is published merged.
    """

    type: Literal["lora"] = "lora"
    paper: ClassVar[str] = (
        "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2106.09685"
    )
    peft_type: ClassVar[str] = "LORA"

    r: int = Field(16, ge=1, le=512, description="Rank.")
    alpha: float = Field(32.0, gt=0, description="α: the scale is α / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Of the input of A, while training.")
    targets: str | tuple[str, ...] = Field(
        "all-linear", description="Names of the matrices, or all linear ones but the head."
    )
    layers: tuple[int, ...] | None = Field(None, description="Only these layers, from 0.")
    dora: bool = False
    rslora: bool = False

    @property
    def served(self) -> bool:
        """Whether vLLM serves it as it is."""
        return not self.dora

    def apply(self, model: Any, *, task: str = "CAUSAL_LM", steps: int | None = None) -> Any:  # noqa: ARG002
        """Wrap by peft."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self._targets(model),
            layers_to_transform=None if self.layers is None else list(self.layers),
            use_dora=self.dora,
            use_rslora=self.rslora,
            task_type=task,
        )
        return get_peft_model(model, config)

    def _targets(self, model: Any) -> str | list[str]:
        """Name the matrices; peft does not take `all-linear` of some layers."""
        if self.targets != "all-linear" or self.layers is None:
            return self.targets if isinstance(self.targets, str) else list(self.targets)
        from torch.nn import Linear

        inside = (
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, Linear) and any(part.isdecimal() for part in name.split("."))
        )
        return sorted(set(inside))
