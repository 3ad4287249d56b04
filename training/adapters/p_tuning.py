"""P-tuning: a soft prompt out of a small network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from pydantic import Field

from training.adapters.base import AdapterError
from training.adapters.soft_prompt import SoftPrompt

if TYPE_CHECKING:
    from transformers import TrainerCallback


class PTuning(SoftPrompt):
    """Learn a soft prompt that an MLP makes of its own embeddings, so that its places are related.

    2103.10385. What is published is the prompt that came out, without the MLP: it cannot be
    trained further. Cannot be merged, nor served by vLLM; transformers evaluates it.
    """

    type: Literal["p_tuning"] = "p_tuning"
    paper: ClassVar[str] = "Liu et al., GPT Understands, Too, 2103.10385"
    peft_type: ClassVar[str] = "P_TUNING"

    tokens: int = Field(20, ge=1, le=1000, description="Length of the soft prompt.")
    hidden: int = Field(128, ge=1, description="Width of the MLP.")

    def apply(self, model: Any, *, task: str = "CAUSAL_LM", steps: int | None = None) -> Any:  # noqa: ARG002
        """Wrap by peft."""
        from peft import PromptEncoderConfig, get_peft_model

        config = PromptEncoderConfig(
            num_virtual_tokens=self.tokens, encoder_hidden_size=self.hidden, task_type=task
        )
        return get_peft_model(model, config)

    def resume(self, model: Any, directory: Path) -> NoReturn:  # noqa: ARG002
        """Refuse: raises AdapterError."""
        self.check_kind(directory)
        raise AdapterError(f"{directory}: a P-tuned prompt is kept without the network behind it")

    def callbacks(self) -> Sequence[TrainerCallback]:
        """Keep the network in the states to resume from."""
        from training.adapter_callbacks import PromptNetwork

        return (PromptNetwork(),)
