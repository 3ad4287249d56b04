"""Rollouts of the trained model itself: slow, and everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from training.rollouts.base import RolloutSettings
from training.rollouts.engine import EngineRollouts, Refresh
from training.rollouts.loop_thread import LoopThread
from training.rollouts.model_engine import ModelEngine


def open_model(
    settings: RolloutSettings,
    model_directory: Path,
    tokenizer: PreTrainedTokenizerBase,
    model: Any = None,
) -> EngineRollouts:
    """Draw from the model as it is at each moment; None: from a copy of its own until refreshed."""
    if model is None:
        model = AutoModelForCausalLM.from_pretrained(model_directory, local_files_only=True)

    async def start() -> ModelEngine:
        return ModelEngine(model, tokenizer)

    return EngineRollouts(settings, start, _following)


def _following(engine: ModelEngine) -> Refresh:
    """Have it draw from the very model: there is nothing to move."""

    def refresh(loop: LoopThread, model: Any, step: int) -> None:  # noqa: ARG001
        engine.follow(model)

    return refresh
