"""The gate: measure a checkpoint through the server's own API, and keep the figures beside it."""

from __future__ import annotations

from pathlib import Path

from server.checkpoints.evaluation import Evaluation
from server.checkpoints.store import Checkpoint, CheckpointStore
from server.models import Progress, SilentProgress
from training.evaluation.gate import GateSettings
from training.evaluation.order import EvaluationFailed, Order
from training.evaluation.policy import measure_policy
from training.evaluation.server import Serve, served
from training.evaluation.verifier import measure_verifier

__all__ = ["EvaluationFailed", "evaluate"]

EVALUATION = "evaluation.json"
POLICIES = ("policy", "lora")


def evaluate(
    checkpoint: Checkpoint,
    gate: GateSettings,
    store: CheckpointStore,
    *,
    directory: Path,
    progress: Progress | None = None,
    serve: Serve = served,
) -> Evaluation:
    """Measure a checkpoint, record the evaluation in the store and in `directory`, and return it.

    A policy is compared with its parent: both answer the same problems with the same seeds, and
    the gain is bootstrapped over problems. A verifier scores a pool's replies: the gain is that of
    best-of-n by it over a reply at random. What was answered is kept in `directory`: cut off, or
    asked again, an evaluation goes on from there.

    Raises:
        EvaluationFailed: answers are missing, or the gate does not fit the checkpoint.
        CheckpointError: the checkpoint, or its parent, is not whole.
        EngineError: a server does not start, or does not answer.
    """
    whole = store.verify(checkpoint.spec)
    order = Order(whole, gate, store, directory, progress or SilentProgress(), serve)
    if gate.pool is not None:
        evaluation = measure_verifier(order)
    elif whole.manifest.kind in POLICIES:
        evaluation = measure_policy(order)
    else:
        kind = whole.manifest.kind
        raise EvaluationFailed(f"a checkpoint of kind {kind} is measured on a `pool` of replies")
    directory.mkdir(parents=True, exist_ok=True)
    written = evaluation.model_dump_json(indent=1) + "\n"
    (directory / EVALUATION).write_text(written, encoding="utf-8")
    store.record_evaluation(evaluation)
    return evaluation
