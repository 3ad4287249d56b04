"""Checkpoints to measure, and servers that say what a test wants."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from server.checkpoints.store import Checkpoint, CheckpointStore
from server.engines.scripted import ScriptedEngine
from tests.server.local import local
from tests.training.tiny import write_rows
from verifiers.manifest import Manifest, tokenizer_digest
from verifiers.types import Prompt, Sampling

Said = Callable[[Prompt, Mapping[str, Any]], str]
"""What a server with these settings replies to a prompt."""


def publish(store: CheckpointStore, tiny: Path, **manifest: Any) -> Checkpoint:
    """Publish the tiny model as if it were trained from itself."""
    told = {"kind": "policy", "base_model": "tiny", "config": {"model": str(tiny)}} | manifest
    with store.draft("tiny") as draft:
        shutil.copytree(tiny, draft, dirs_exist_ok=True)
        return store.publish(draft, Manifest(tokenizer=tokenizer_digest(tiny), **told))


def publish_adapter(store: CheckpointStore, tiny: Path, **manifest: Any) -> Checkpoint:
    """Publish a directory that looks like an adapter of the tiny model."""
    told = {"kind": "lora", "base_model": str(tiny), "tokenizer": tokenizer_digest(tiny)}
    with store.draft("tiny-lora") as draft:
        (draft / "adapter_config.json").write_text(json.dumps({"r": 4}))
        return store.publish(draft, Manifest(**told | manifest))


def sums(path: Path, count: int) -> str:
    """Write problems 0 + 1 to n-1 + 1; return the task that reads them."""
    rows = [{"prompt": f"{i} + 1 = ?", "reference": str(i + 1)} for i in range(count)]
    return f"jsonl:{write_rows(path, rows)}"


def boxed(prompt: Prompt, *, right: bool) -> str:
    """Answer a problem of `sums`."""
    first = int(str(prompt.messages[-1]["content"]).split()[0])
    return f"So \\boxed{{{first + 1 if right else -1}}}"


def first_of(prompt: Prompt) -> int:
    """Return the first number of a problem of `sums`."""
    return int(str(prompt.messages[-1]["content"]).split()[0])


@dataclass
class Servers:
    """Serves scripted engines in place of models, and remembers with which settings."""

    said: Said
    fail: Callable[[Prompt, int], Exception | None] | None = None
    started: list[Mapping[str, Any]] = field(default_factory=list)
    asked: int = 0

    @contextmanager
    def __call__(self, settings: Mapping[str, Any], directory: Path) -> Iterator[str]:
        self.started.append(settings)

        def script(prompt: Prompt, sampling: Sampling, index: int) -> str:
            return self.said(prompt, settings)

        engine = ScriptedEngine(script, fail=self.fail)
        adapters = tuple(settings.get("options", {}).get("adapters", ()))
        engine.capabilities = replace(engine.capabilities, adapters=adapters)
        with local(engine, verifiers=settings.get("verifiers", {})) as server:
            yield server.url
        self.asked += engine.log["started"]
