"""LoRA over a base of four bits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from training.adapters.base import AdapterError
from training.adapters.lora import LoRA


class QLoRA(LoRA):
    """Train LoRA over a frozen base in NF4 with doubly quantised scales.

    2305.14314, whose rank, α and dropout are the defaults. Needs a GPU and bitsandbytes. What is
    published is the adapter; it is served over the base as that is, in 16 bits. The paper's paged
    optimizer is `[training.arguments] optim = "paged_adamw_32bit"`. Replies while training come
    from an engine by `[rollouts] weights = "adapter"`, as four bits are no weights for it.
    """

    type: Literal["qlora"] = "qlora"  # type: ignore[assignment]
    paper: ClassVar[str] = (
        "Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, 2305.14314"
    )

    r: int = Field(64, ge=1, le=512, description="Rank.")
    alpha: float = Field(16.0, gt=0, description="α: the scale is α / r.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Of the input of A, while training.")

    def load_arguments(self) -> dict[str, Any]:
        """Quantise while loading. Raises AdapterError where that cannot be."""
        import torch

        if not torch.cuda.is_available():
            raise AdapterError("adapter 'qlora' needs a GPU, and there is none: use 'lora'")
        if find_spec("bitsandbytes") is None:
            raise AdapterError("adapter 'qlora' needs bitsandbytes: install forethought[qlora]")
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        device = torch.cuda.current_device()
        return {"quantization_config": config, "device_map": {"": device}}

    def apply(self, model: Any, *, task: str = "CAUSAL_LM", steps: int | None = None) -> Any:
        """Prepare the quantised model, and wrap it by peft."""
        return super().apply(_prepared(model), task=task, steps=steps)

    def resume(self, model: Any, directory: Path) -> Any:
        """Prepare the quantised model, and put the saved adapter into it."""
        return super().resume(_prepared(model), directory)


def _prepared(model: Any) -> Any:
    from peft import prepare_model_for_kbit_training

    # Gradient checkpointing is the recipe's to say.
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
