"""Small checkpoints in a store, and what a gate may have measured of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.checkpoints.evaluation import Evaluation
from server.checkpoints.store import Checkpoint, CheckpointStore
from verifiers.manifest import Manifest

TOKENIZER = "a" * 64
BASE = "org/base"


def publish(
    store: CheckpointStore, name: str = "solver", content: str = "weights", **manifest: Any
) -> Checkpoint:
    """Publish an adapter, or a whole policy, whose only weights are `content`."""
    told = {"kind": "lora", "base_model": BASE, "tokenizer": TOKENIZER} | manifest
    with store.draft(name) as draft:
        prefix = "" if told["kind"] == "policy" else "adapter_"
        (draft / f"{prefix}model.safetensors").write_text(content)
        (draft / f"{prefix}config.json").write_text(json.dumps({"r": 4}))
        return store.publish(draft, Manifest(**told))


def evaluate(store: CheckpointStore, checkpoint: Checkpoint, **figures: Any) -> Evaluation:
    """Record an evaluation that passes, unless the figures say otherwise."""
    told: dict[str, Any] = {
        "checkpoint": checkpoint.spec,
        "parent": "base",
        "task": "chain_sum",
        "strategy": {"type": "single"},
        "seed": 1,
        "problems": 100,
        "samples": 4,
        "accuracy": 0.5,
        "parent_accuracy": 0.4,
        "gain": 0.1,
        "lower": 0.05,
        "upper": 0.15,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    evaluation = Evaluation(**{**told, **figures})
    store.record_evaluation(evaluation)
    return evaluation


def promote(store: CheckpointStore, name: str = "solver", content: str = "weights") -> Checkpoint:
    """Publish, evaluate and promote."""
    published = publish(store, name, content)
    evaluate(store, published)
    return store.promote(published.spec)


def drafts(root: Path) -> list[Path]:
    """Find what was not published."""
    return sorted(root.glob("*/.draft-*"))
