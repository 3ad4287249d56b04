"""Process reward models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Stepped
from verifiers.manifest import Kind
from verifiers.process_reward import ProcessReward as Verifier

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainingArguments

    from training.reward_models.step_marks import Marked
    from training.reward_models.verdicts import Labels
    from training.run import Run


class ProcessReward(Method):
    """Learn whether each step is right: next-token prediction of + or - at its mark.

    Lightman et al., 2305.20050, for people's labels; for automatic ones, hard or soft,
    Math-Shepherd, 2312.08935 (`forethought export --kind steps` makes them). A soft label y costs
    −(y log p(+) + (1 − y) log p(−)). Marks are where the verifier `process_reward` reads, whose
    configuration `verifier` is; the manifest names the mark. We deviate from both papers: by
    default it is the blank line that ends a step anyway, so that the policy's cache serves.
    """

    type: Literal["process_reward"] = "process_reward"
    paper: ClassVar[str] = "Lightman et al., Let's Verify Step by Step, 2305.20050"
    family: ClassVar[Family] = "reward model"
    rows: ClassVar[RowClass] = Stepped
    makes: ClassVar[Kind] = "prm"

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW; 10 times that for LoRA.")
    hard: bool = Field(
        False, description="Take any label above 0 for 1: some completion of the step was right."
    )
    verifier: Verifier = Field(
        Verifier(), description="As the verifier is configured that will ask."
    )

    def train(self, run: Run) -> None:
        """Train, score the held-out steps, and publish."""
        from transformers import TrainingArguments

        from training.losses.reward import labelled_token
        from training.reward_models.step_marks import mark_logprobs, marked_batch
        from training.reward_models.verdicts import Labels
        from training.trainer import LossTrainer

        labels = Labels(run.encoder, self.verifier.good, self.verifier.bad)

        def loss(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            logprobs = mark_logprobs(model, batch)
            good, bad = logprobs[:, labels.good], logprobs[:, labels.bad]
            right = (good > bad) == (batch["label"] > 0.5)
            return labelled_token(good, bad, batch["label"]), {"accuracy": right.float().mean()}

        def collate(rows: Sequence[Marked]) -> dict[str, Tensor]:
            return marked_batch(rows, run.encoder.pad_id)

        arguments = run.arguments(TrainingArguments)
        trainer = LossTrainer(
            loss=loss,
            collate=collate,
            rows=self._encoded(run, run.rows),
            model=run.policy(),
            args=arguments,
        )
        run.fit(trainer)
        model = trainer.accelerator.unwrap_model(trainer.model)
        metrics = self._measured(run, model, labels, arguments)
        run.publish(model, step_mark=self.verifier.mark, metrics=metrics)

    def _encoded(self, run: Run, rows: Sequence[Stepped]) -> list[Marked]:
        from training.reward_models.step_marks import encode_steps

        encoded = [each for row in rows for each in encode_steps(self.verifier, row, run.encoder)]
        if not self.hard:
            return encoded
        return [
            each._replace(labels=tuple(float(label > 0) for label in each.labels))
            for each in encoded
        ]

    def _measured(
        self, run: Run, model: Any, labels: Labels, arguments: TrainingArguments
    ) -> dict[str, float]:
        """Measure how well the held-out steps are told apart."""
        import torch

        from training.reward_models.discrimination import Graded, discrimination, probability
        from training.reward_models.step_marks import mark_logprobs, marked_batch

        graded: list[Graded] = []
        model.eval()
        for row in self._encoded(run, run.test_rows):
            batch = marked_batch([row], run.encoder.pad_id)
            batch = {name: tensor.to(arguments.device) for name, tensor in batch.items()}
            with (
                torch.no_grad(),
                torch.autocast(arguments.device.type, torch.bfloat16, enabled=arguments.bf16),
            ):
                log_odds = labels.log_odds(mark_logprobs(model, batch)).tolist()
            graded += [
                Graded(row.problem, probability(value), label > 0.5)
                for value, label in zip(log_odds, row.labels, strict=True)
            ]
        figures = discrimination(graded) if graded else {}
        kept = figures.keys() & {"auc", "auc_within"}
        return {f"held_out_{name}": figures[name] for name in sorted(kept)}
