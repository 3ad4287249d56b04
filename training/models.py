"""From what a recipe calls a model to weights in this process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from server.checkpoints.store import CheckpointStore
from server.models import Progress, resolve
from training.bottleneck import BOTTLENECK, load_bottlenecks
from training.recipe import Dtype
from verifiers.manifest import Manifest

CHECKPOINT = "checkpoint:"
ADAPTER = "adapter_config.json"
HEADS = {
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
}
"""By peft's TaskType."""


class Base(NamedTuple):
    """A model's directory, and the name under which manifests know it."""

    name: str
    path: Path
    adapter: Path | None = None
    """An adapter's directory over it."""


def find_base(spec: str, store: CheckpointStore, progress: Progress) -> Base:
    """Find a catalogue name, hub id, directory or `checkpoint:NAME[@VERSION]`.

    Of a checkpoint that is an adapter, the base is the model that it was made on.

    Raises:
        ModelError: it cannot be had.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    if not spec.startswith(CHECKPOINT):
        found = resolve(spec, progress)
        return Base(found.name, Path(found.path))
    checkpoint = store.find(spec.removeprefix(CHECKPOINT))
    if not checkpoint.is_adapter:
        return Base(f"{CHECKPOINT}{checkpoint.spec}", checkpoint.path)
    below = find_base(_origin(checkpoint.manifest), store, progress)
    return below._replace(adapter=checkpoint.path)


def _origin(manifest: Manifest) -> str:
    """Say where an adapter's base is: manifests call a directory by its last name alone."""
    said = str(manifest.config.get("model", manifest.base_model))
    pinned = said.startswith(CHECKPOINT) and "@" in said
    return said if pinned or Path(said).is_dir() else manifest.base_model


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads on the right, with a token for padding."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load_model(
    base: Base, *, task: str = "CAUSAL_LM", dtype: Dtype, adapted: bool, **arguments: Any
) -> PreTrainedModel:
    """Load weights for training or to compare with, an adapter merged into them if it can be.

    `task` is peft's TaskType; `arguments` go to `from_pretrained`.
    """
    model: PreTrainedModel = HEADS[task].from_pretrained(
        base.path, dtype=weight_type(dtype, adapted), local_files_only=True, **arguments
    )
    return model if base.adapter is None else _adapted(model, base.adapter)


def _adapted(model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    if json.loads((directory / ADAPTER).read_text())["peft_type"] == BOTTLENECK:
        return load_bottlenecks(model, directory)
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(directory)
    if config.is_prompt_learning:
        return PeftModel.from_pretrained(model, directory, config=config)
    config.task_type = None  # it may be merged below a head of another task
    wrapped = PeftModel.from_pretrained(model, directory, config=config)
    merged: PreTrainedModel = wrapped.merge_and_unload()
    return merged


def weight_type(dtype: Dtype, adapted: bool) -> torch.dtype:
    """Return the type of the weights: trained ones in float32, as steps are small beside them."""
    if dtype == "auto":
        return torch.bfloat16 if adapted and computes_bfloat16() else torch.float32
    chosen: torch.dtype = getattr(torch, dtype)
    return chosen


def computes_bfloat16() -> bool:
    """Whether the machine multiplies bfloat16 at speed."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def has_accelerator() -> bool:
    """Whether there is a device beside the CPU to train on."""
    return bool(torch.accelerator.is_available())


def quieten() -> None:
    """Keep libraries from the network, and from writing progress bars between ours."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
