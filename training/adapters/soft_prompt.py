"""What adapters share that stand before the first token."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from training.adapters.base import Adapter


class SoftPrompt(Adapter):
    """Learned places before the first token. Neither merged nor served by vLLM."""

    mergeable: ClassVar[bool] = False

    def resume(self, model: Any, directory: Path) -> Any:
        """Wrap the model anew and load what was learned: peft loads soft prompts for use alone."""
        from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

        self.check_kind(directory)
        config = PeftConfig.from_pretrained(str(directory))
        config.inference_mode = False
        config.base_model_name_or_path = model.name_or_path
        wrapped = get_peft_model(model, config)
        set_peft_model_state_dict(wrapped, load_peft_weights(str(directory), device="cpu"))
        return wrapped
