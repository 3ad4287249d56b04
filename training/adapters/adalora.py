"""LoRA whose ranks are given out where they matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.adapters.base import Adapter, AdapterError

if TYPE_CHECKING:
    from transformers import TrainerCallback


class AdaLoRA(Adapter):
    """Add P Λ Q, prune the singular values Λ that matter least, keep P and Q near orthogonal.

    2303.10512. From `warmup` steps on the budget falls from `initial_r` to `r` for each matrix on
    average, and stays for the last `final` steps. We add the gradient of the orthogonality term
    just before each optimizer step, so that it is there whatever the loss. Published merged.
    """

    type: Literal["adalora"] = "adalora"
    paper: ClassVar[str] = (
        "Zhang et al., AdaLoRA: Adaptive Budget Allocation for Fine-Tuning, 2303.10512"
    )
    peft_type: ClassVar[str] = "ADALORA"

    r: int = Field(8, ge=1, le=512, description="Rank at the end, on average.")
    initial_r: int = Field(12, ge=1, le=512, description="Rank at the start.")
    alpha: float = Field(32.0, gt=0, description="α: the scale is α / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Of the input of A, while training.")
    targets: str | tuple[str, ...] = Field(
        "all-linear", description="Names of the matrices, or all linear ones but the head."
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps before pruning.")
    final: float = Field(0.3, ge=0, lt=1, description="Share of the steps after pruning.")
    interval: int = Field(1, ge=1, description="Steps between two allocations.")
    orthogonality: float = Field(0.1, ge=0, description="γ, of ‖PᵀP − I‖ + ‖QQᵀ − I‖.")

    def apply(self, model: Any, *, task: str = "CAUSAL_LM", steps: int | None = None) -> Any:
        """Wrap by peft. Raises AdapterError if the number of steps is not known."""
        from peft import AdaLoraConfig, get_peft_model

        if steps is None:
            raise AdapterError("adapter 'adalora' has a schedule: say training.max_steps")
        warmup, final = round(self.warmup * steps), round(self.final * steps)
        if warmup >= steps - final:
            raise AdapterError(f"adapter 'adalora': none of {steps} steps is left to prune in")
        config = AdaLoraConfig(
            target_r=self.r,
            init_r=self.initial_r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
            tinit=warmup,
            tfinal=final,
            deltaT=self.interval,
            total_step=steps,
            orth_reg_weight=self.orthogonality,
            task_type=task,
        )
        return get_peft_model(model, config)

    def callbacks(self) -> Sequence[TrainerCallback]:
        """Allocate ranks at each step."""
        from training.adapter_callbacks import RankAllocation

        return (RankAllocation(),)
