"""Child process of `unpack`: `python -m server.models.convert GGUF FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from server.models import child


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file as bf16 safetensors, with tokenizer and chat template, into `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, file = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=file,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


if __name__ == "__main__":
    child.end_with_parent()
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
