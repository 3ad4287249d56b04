"""Prefix tuning."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from training.adapters.soft_prompt import SoftPrompt


class Prefix(SoftPrompt):
    """Learn keys and values that stand before the first token, in every layer.

    Prefix-Tuning, 2101.00190, without the MLP that the paper makes them with while training: as
    P-Tuning v2 (2110.07602), whose experiments find no constant gain by it. Cannot be merged, nor
    served by vLLM; transformers evaluates it.
    """

    type: Literal["prefix"] = "prefix"
    paper: ClassVar[str] = "Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts, 2101.00190"
    peft_type: ClassVar[str] = "PREFIX_TUNING"

    tokens: int = Field(20, ge=1, le=1000, description="Length of the prefix.")

    def apply(self, model: Any, *, task: str = "CAUSAL_LM", steps: int | None = None) -> Any:  # noqa: ARG002
        """Wrap by peft."""
        from peft import PrefixTuningConfig, get_peft_model

        return get_peft_model(
            model, PrefixTuningConfig(num_virtual_tokens=self.tokens, task_type=task)
        )
