"""A language model of two layers with random weights, its tokenizer, and runs that train it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from server.checkpoints.store import CheckpointStore
from server.models import SilentProgress
from training.recipe import Recipe
from training.run import Run, open_run

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LENGTH = 256
"""Of the context, in tokens: characters."""


def save_tiny(directory: Path, *, seed: int = 0) -> Path:
    """Write a language model of bytes that transformers and vLLM load: about 100,000 weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=_save_tokenizer(directory),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        initializer_range=0.1,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    model.save_pretrained(directory)
    return directory


def save_brief(tiny: Path, directory: Path) -> Path:
    """Write a tiny model that replies with a letter or two, whatever it is asked, and ends."""
    replies = ["a", "b", "cd", "ef", "g", "hi"]
    turns = [
        [
            {"role": role, "content": text}
            for question in (f"Say {number}", "Again?", "And now?")[: 1 + number % 3]
            for role, text in (("user", question), ("assistant", replies[number % 6]))
        ]
        for number in range(12)
    ]
    rows = write_rows(directory / "rows.jsonl", [{"messages": each} for each in turns])
    said = recipe(tiny, "sft", rows, training={"max_steps": 40, "batch_size": 12})
    run = begin(said, directory)
    said.method.train(run)
    assert run.result is not None
    return run.result.path


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(model: Path, method: Mapping[str, Any] | str, train: Path, **tables: Any) -> Recipe:
    """Say a run of some steps on the tiny model; `tables` are laid over."""
    named = {"type": method} if isinstance(method, str) else dict(method)
    training = {
        "max_steps": 8,
        "batch_size": 4,
        "max_length": LENGTH,
        "dtype": "float32",
        "schedule": "constant",
        **tables.pop("training", {}),
    }
    return Recipe.model_validate(
        {
            "name": f"tiny-{named['type'].replace('_', '-')}",
            "model": str(model),
            "method": {"learning_rate": 3e-3, **named},
            "data": {"train": [str(train)], "strict": True},
            "training": training,
            **tables,
        }
    )


def begin(said: Recipe, directory: Path) -> Run:
    """Open the run of a recipe; its store is beside it."""
    store = CheckpointStore(directory / "store")
    return open_run(said, directory / "run", store, SilentProgress(), print)


def logged(run: Run, name: str) -> list[float]:
    """Return what the run logged under a name, step by step."""
    lines = (run.directory / "log.jsonl").read_text().splitlines()
    return [row[name] for row in map(json.loads, lines) if name in row]


def _save_tokenizer(directory: Path) -> int:
    """Write a tokenizer of single bytes; return the number of its tokens.

    Byte-level without merges, as transformers reads every Qwen2 tokenizer as one of BPE.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>"
    )
    whole.add_special_tokens({"additional_special_tokens": special[1:2]})
    whole.chat_template = TEMPLATE
    whole.save_pretrained(directory)
    return len(vocabulary)
