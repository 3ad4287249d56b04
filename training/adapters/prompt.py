"""Prompt tuning."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from training.adapters.soft_prompt import SoftPrompt


class Prompt(SoftPrompt):
    """Learn the embeddings of tokens that stand before the first one.

    2104.08691; its length and learning rate (0.3, by Adafactor) suit models of billions. They
    begin as embeddings of random tokens of the vocabulary. Cannot be merged, nor served by vLLM;
    transformers evaluates it.
    """

    type: Literal["prompt"] = "prompt"
    paper: ClassVar[str] = (
        "Lester et al., The Power of Scale for Parameter-Efficient Prompt Tuning, 2104.08691"
    )
    peft_type: ClassVar[str] = "PROMPT_TUNING"

    tokens: int = Field(100, ge=1, le=1000, description="Length of the soft prompt.")

    def apply(self, model: Any, *, task: str = "CAUSAL_LM", steps: int | None = None) -> Any:  # noqa: ARG002
        """Wrap by peft."""
        from peft import PromptTuningConfig, PromptTuningInit, get_peft_model

        config = PromptTuningConfig(
            num_virtual_tokens=self.tokens,
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
            task_type=task,
        )
        return get_peft_model(model, config)
