"""Turn a GGUF file into a model directory, since vLLM reads no GGUF by itself.

The work is done in a child process, so that torch's memory is given back before an engine starts.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from server.models import child
from server.models.catalogue import CatalogueEntry
from server.models.errors import ModelError
from server.models.progress import Progress


def unpack(entry: CatalogueEntry, gguf: Path, partial: Path, progress: Progress) -> Path:
    """Write `gguf` as bf16 safetensors with tokenizer and chat template into a new directory."""
    destination = Path(tempfile.mkdtemp(prefix="unpacked-", dir=partial))
    command = [sys.executable, "-m", "server.models.convert", str(gguf), str(destination)]
    with progress.stage(f"Unpacking {entry.name}"):
        try:
            child.run(
                command,
                log=partial / "unpack.log",
                tick=lambda: None,
                environment={"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
        except child.ChildFailed as error:
            raise ModelError(
                f"{entry.name}: {gguf} could not be unpacked:\n{error}\n"
                "It needs torch, transformers, gguf and accelerate: pip install 'forethought[cpu]'."
            ) from error
    generation_config = json.dumps(entry.generation_config, indent=2)
    (destination / "generation_config.json").write_text(generation_config + "\n")
    for path in (destination, *destination.iterdir()):
        # Temporary folders and safetensors files are made private; a cache may be shared.
        path.chmod(0o755 if path.is_dir() else 0o644)
    return destination
