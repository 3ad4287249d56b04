"""Verifiers of whole replies, trained on labels: what outcome and generative ones share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Labelled

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from server.checkpoints.store import Checkpoint
    from training.encoding import Encoded
    from training.reward_models.reply_scoring import Measured
    from training.run import Run


class Judged(NamedTuple):
    """What a model says of a batch's replies, and what that costs it."""

    log_odds: Tensor
    """Of being right, (rows,)."""
    loss: Tensor


Judge: TypeAlias = "Callable[[Any, Mapping[str, Tensor]], Judged]"
"""From the model and a batch of `training.reward_models.reply_batches`."""


class ReplyVerifier(Method):
    """A model that says how likely a reply is right.

    Rows of `data.test` are scored after every epoch (`held_out_…` in the log, metrics in the
    manifest), and a calibration is fitted on them.
    """

    family: ClassVar[Family] = "reward model"
    rows: ClassVar[RowClass] = Labelled
    task: ClassVar[str]
    """peft's TaskType of the model."""

    trained_layers: int | None = Field(
        None, ge=0, description="Train only so many of the last layers, and the head. Default: all."
    )
    reuse_frozen: bool = Field(
        False,
        description="Compute once what the layers below the first trained one make of a row, and "
        "keep it in memory, for all epochs.",
    )
    balanced: bool = Field(
        False, description="Weigh rows so that right and wrong ones count the same."
    )

    @abstractmethod
    def load(self, run: Run) -> Any:
        """Load the model that is trained."""

    @abstractmethod
    def encode(self, run: Run) -> Callable[[Labelled], Encoded]:
        """Return how rows become the tokens that the verifier reads when it serves."""

    @abstractmethod
    def judge(self, run: Run, model: Any) -> Judge:
        """Return how the model judges."""

    @abstractmethod
    def publish(self, run: Run, model: Any, **told: Any) -> Checkpoint | None:
        """Write the checkpoint; `told` goes to `Run.publish`."""

    def train(self, run: Run) -> None:
        """Train, score what was held out, and publish."""
        model = self.load(run)
        measured = self.fit(run, model, run.rows, run.test_rows)
        origin = {"method": self.name, "model": run.base.name}
        calibration = measured.calibration(origin)
        self.publish(run, model, metrics=measured.metrics, calibration=calibration)

    def fit(
        self,
        run: Run,
        model: Any,
        rows: Sequence[Labelled],
        test_rows: Sequence[Labelled],
        directory: Path | None = None,
    ) -> Measured:
        """Train a model on rows, in place; return what it says of the test rows then.

        States and log are in `directory`; None: the run's own.
        """
        from transformers import TrainingArguments

        from training.reward_models.frozen_layers import train_only_top
        from training.reward_models.reply_batches import collated, examples
        from training.reward_models.reply_scoring import HeldOut, Scorer, reusing
        from training.trainer import LossTrainer

        if self.trained_layers is not None:
            train_only_top(model, self.trained_layers)
        place = {} if directory is None else {"output_dir": str(directory)}
        arguments = run.arguments(
            TrainingArguments, train_sampling_strategy="group_by_length", **place
        )
        encode, collate = self.encode(run), collated(run.encoder.pad_id)
        judge = self.judge(run, model)
        trained = examples(rows, encode, balanced=self.balanced)
        held_out = examples(test_rows, encode)
        with ExitStack() as stack:
            if self.reuse_frozen:
                both = stack.enter_context(
                    reusing(model, (trained, held_out), run.encoder.pad_id, arguments)
                )
                trained, held_out = both
            trainer = LossTrainer(
                loss=_loss(judge), collate=collate, rows=trained, model=model, args=arguments
            )
            watch = HeldOut(trainer, Scorer(judge, collate, arguments), held_out)
            trainer.add_callback(watch)
            run.fit(trainer)
            return watch.measured()

    def scores(self, run: Run, model: Any, rows: Sequence[Labelled]) -> list[float]:
        """Score rows by a model: the probability that each is right."""
        from transformers import TrainingArguments

        from training.reward_models.reply_batches import collated, examples
        from training.reward_models.reply_scoring import Scorer

        arguments = run.arguments(TrainingArguments)
        scorer = Scorer(self.judge(run, model), collated(run.encoder.pad_id), arguments)
        scores: list[float] = scorer.scores(model, examples(rows, self.encode(run)))
        return scores

    @property
    def name(self) -> str:
        """The name that recipes call it by."""
        return str(type(self).model_fields["type"].default)


def _loss(judge: Judge) -> Callable[[Any, Mapping[str, Tensor]], Any]:
    def loss(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        log_odds, value = judge(model, batch)
        right = (log_odds.detach() > 0) == (batch["label"] > 0.5)
        return value, {"accuracy": right.float().mean()}

    return loss
