"""Fine-tuning on conversations: what several methods do with the replies that they have chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import Trainer
from trl import SFTConfig, SFTTrainer

from training.encoding import Encoder
from training.rows import Conversation
from training.run import Run


def imitate(
    run: Run, model: Any, rows: Sequence[Conversation], directory: Path | None = None
) -> Trainer:
    """Fine-tune a model on conversations by TRL; return the trainer, done.

    Its states and log are in `directory`; None: the run's own.
    """
    place = {} if directory is None else {"output_dir": str(directory)}
    tests = run.test_rows if directory is None else ()
    trainer: Trainer = SFTTrainer(
        model=model,
        # TRL weighs a step by its tokens, over all accumulated passes and processes.
        args=run.arguments(SFTConfig, max_length=None, completion_only_loss=True, **place),
        train_dataset=_dataset(run.encoder, rows),
        eval_dataset=_dataset(run.encoder, tests) if tests else None,
        processing_class=run.tokenizer,
    )
    run.fit(trainer)
    return trainer


def _dataset(encoder: Encoder, rows: Sequence[Conversation]) -> Any:
    encoded = [encoder.conversation(row.messages) for row in rows]
    return Dataset.from_list(
        [{"input_ids": row.ids, "completion_mask": row.mask} for row in encoded]
    )
