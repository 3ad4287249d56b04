"""What a recipe's words are to transformers' Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training import models
from training.recipe import Recipe


def trainer_arguments(recipe: Recipe, directory: Path) -> dict[str, Any]:
    """Return transformers' TrainingArguments for a recipe, but those it names itself."""
    chosen = recipe.training
    # Weights in bfloat16 need no autocast; those in float32 are computed in bfloat16.
    autocast = chosen.dtype == "auto" and models.computes_bfloat16()
    return {
        "output_dir": str(directory),
        "learning_rate": recipe.method.learning_rate,
        "num_train_epochs": chosen.epochs,
        "max_steps": chosen.max_steps or -1,
        "per_device_train_batch_size": chosen.batch_size,
        "gradient_accumulation_steps": chosen.accumulate,
        "lr_scheduler_type": chosen.schedule,
        "warmup_steps": chosen.warmup_steps,
        "weight_decay": chosen.weight_decay,
        "adam_beta1": chosen.betas[0],
        "adam_beta2": chosen.betas[1],
        "max_grad_norm": chosen.max_grad_norm,
        "gradient_checkpointing": chosen.gradient_checkpointing,
        "bf16": autocast,
        # transformers takes bfloat16 on a CPU only where it is told that it is one.
        "use_cpu": not models.has_accelerator(),
        "seed": chosen.seed,
        "save_strategy": "steps",
        "save_steps": chosen.save_steps,
        "save_total_limit": chosen.keep_states,
        "logging_steps": chosen.log_steps,
        "logging_nan_inf_filter": False,
        "report_to": ["tensorboard"],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }
