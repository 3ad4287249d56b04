"""Distillation: a smaller model learns from a larger one."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.base import Family, Method, RowClass
from training.conversions import as_rows
from training.rows import Conversation, Message, Prompted

if TYPE_CHECKING:
    from torch import Tensor

    from training.encoding import Encoded, Encoder
    from training.rollouts.base import Rollouts
    from training.run import Run


class Distillation(Method):
    """Learn from a teacher: from what it writes, or from what it thinks of what the student writes.

    `mode = "samples"`: draw the teacher's replies to prompts, keep the whole ones (with
    `[[rewards]]` the right ones), and imitate them (as DeepSeek-R1's, 2501.12948). The teacher is
    the recipe's `teacher`, or a server by `[rollouts]`. Replies that are there already are rows for
    `sft`.

    `mode = "gkd"`, 2306.13649: the generalised Jensen-Shannon divergence D_β(teacher ‖ student) on
    replies of which a share λ, `student_share`, is drawn from the student as it is, and the rest is
    the rows' own. λ = 1, β = 1 is on-policy distillation by the reverse KL divergence; below 1 the
    rows are conversations, at 1 prompts. As in the paper no gradient flows through the drawing,
    and a reply's divergence is the mean over its tokens; where the paper draws whose replies a
    batch has, we draw it for each row. Teacher and student must have one tokenizer.
    """

    type: Literal["distillation"] = "distillation"
    paper: ClassVar[str] = "Agarwal et al., On-Policy Distillation of Language Models, 2306.13649"
    family: ClassVar[Family] = "fine-tuning"
    rows: ClassVar[RowClass] = Prompted
    on_policy: ClassVar[bool] = True

    mode: Literal["samples", "gkd"] = Field(
        "gkd", description="Imitate the teacher's replies, or its distribution on replies of both."
    )
    learning_rate: float = Field(2e-5, gt=0, description="Of AdamW; GKD's is 3e-4 for T5.")
    student_share: float = Field(0.5, ge=0, le=1, description="gkd: λ.")
    beta: float = Field(0.5, ge=0, le=1, description="gkd: β; 0 forward KL, 1 reverse KL.")
    samples: int = Field(1, ge=1, description="samples: replies of the teacher to each prompt.")
    threshold: float = Field(0.5, description="samples: the least reward of a kept reply.")
    temperature: float = Field(1.0, gt=0, description="Of drawing; the divergence is at 1.")
    max_tokens: int = Field(512, ge=1, description="Of a drawn reply.")

    @property
    def reads(self) -> RowClass:
        """Conversations, where their replies are used."""
        return Conversation if self._given else Prompted

    @property
    def draws(self) -> bool:
        """Whether anybody writes."""
        return self.mode == "samples" or self.student_share > 0

    @property
    def _given(self) -> bool:
        return self.mode == "gkd" and self.student_share < 1

    def train(self, run: Run) -> None:
        """Train on the teacher's samples, or by its judgement of the student's."""
        if self.mode == "samples":
            self._imitate(run)
        else:
            self._agree(run)

    def _imitate(self, run: Run) -> None:
        from accelerate import PartialState

        from training.imitation import imitate
        from training.rollouts.samples import Drawing, Sampler
        from training.run import RunError

        drawing = Drawing(self.samples, self.max_tokens, self.temperature, self.threshold)
        with (
            Sampler(run, drawing, partial(_teacher_rollouts, run)) as sampler,
            PartialState().main_process_first(),
        ):
            drawn = sampler.draw(run.directory, run.rows)
        kept = as_rows(drawn, Conversation)
        if not kept:
            raise RunError(f"none of the teacher's {len(drawn)} replies can be used")
        share = len(kept) / (len(run.rows) * self.samples)
        run.record(0, {"kept": len(kept), "kept_share": share})
        run.publish(imitate(run, run.policy(), kept).model, metrics={"kept_share": share})

    def _agree(self, run: Run) -> None:
        from transformers import TrainingArguments

        from training.on_policy.student_trainer import StudentTrainer

        teacher, policy = run.teacher(), run.policy()
        run.check_tokenizer(run.teacher_base)
        with ExitStack() as stack:
            rollouts = stack.enter_context(run.rollouts(policy)) if self.draws else None
            trainer = StudentTrainer(
                draw=partial(self._draw, run, rollouts),
                loss=partial(self._loss, teacher),
                rows=run.rows,
                model=policy,
                args=run.arguments(TrainingArguments),
            )
            teacher.to(trainer.args.device)
            run.fit(trainer)
        run.publish(trainer.model)

    def _draw(
        self,
        run: Run,
        rollouts: Rollouts | None,
        model: Any,
        step: int,
        batches: Sequence[Sequence[int]],
    ) -> list[dict[str, Tensor]]:
        """Draw the student's replies of a step, take the others from the rows, and encode all."""
        from training.rollouts.base import policy_sampling
        from verifiers.types import Prompt, sample_seed

        seed = run.recipe.training.seed
        places = [place for batch in batches for place in batch]
        own = [
            random.Random(f"{seed}/{step}/{place}").random() < self.student_share
            for place in places
        ]
        asked = [
            _question(run.rows[place]) for place, drawn in zip(places, own, strict=True) if drawn
        ]
        replies: Iterator[tuple[int, ...]] = iter(())
        if asked:
            assert rollouts is not None, "the recipe was validated"
            if step and rollouts.step != step:
                rollouts.refresh(model, step)
            sampling = policy_sampling(
                self.max_tokens, self.temperature, seed=sample_seed(seed, step), logprobs=None
            )
            prompts = [Prompt(tuple(each.model_dump() for each in turns)) for turns in asked]
            groups = rollouts.generate(prompts, sampling)
            replies = iter([group[0].token_ids for group in groups])
        encoded = iter(
            [
                _encoded(run.encoder, run.rows[place], next(replies) if drawn else None)
                for place, drawn in zip(places, own, strict=True)
            ]
        )
        return [run.encoder.batch(list(islice(encoded, len(batch)))) for batch in batches]

    def _loss(
        self, teacher: Any, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        import torch

        mask = batch["reply_mask"][:, 1:]
        with torch.no_grad():
            wanted = _logits(teacher, batch)
        logits = _logits(model, batch)
        # Models of one tokenizer may be padded to different sizes of vocabulary.
        size = min(logits.shape[-1], wanted.shape[-1])
        student, judge = (each[mask][:, :size].log_softmax(-1) for each in (logits, wanted))
        divergence = generalised_jsd(student, judge, self.beta)
        counts = mask.sum(-1)
        rows = torch.arange(len(mask), device=mask.device).repeat_interleave(counts)
        loss = (divergence / counts[rows]).sum() / len(mask)
        return loss, {"reply_tokens": counts.float().mean()}


def generalised_jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Return D_β = β KL(P ‖ M) + (1 − β) KL(Q ‖ M), M = β P + (1 − β) Q (2306.13649, eq. 1).

    P is the teacher, Q the student. At 0 and 1 D_β vanishes; what stands there is the limit of
    D_β/β, KL(P ‖ Q), and of D_β/(1 − β), KL(Q ‖ P).

    Args:
        student: log-probabilities, (…, vocabulary).
        teacher: the same.
        beta: β.
    """
    import torch

    if beta == 0:
        return _kl(teacher, student)
    if beta == 1:
        return _kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)


def _logits(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    ids = batch["input_ids"]
    logits = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits
    places: Tensor = logits[:, -ids.shape[1] : -1].float()
    return places


def _question(row: Conversation | Prompted) -> tuple[Message, ...]:
    return row.messages[:-1] if isinstance(row, Conversation) else row.prompt


def _encoded(
    encoder: Encoder, row: Conversation | Prompted, drawn: tuple[int, ...] | None
) -> Encoded:
    """Encode a row with the reply that was drawn, or with its own."""
    if drawn is not None:
        return encoder.drawn(_question(row), drawn)
    assert isinstance(row, Conversation), "prompts have no replies of their own"
    return encoder.conversation(row.messages)


def _teacher_rollouts(run: Run, stack: ExitStack) -> Rollouts:
    from training.rollouts.base import open_rollouts

    settings = run.recipe.rollouts
    assert settings is not None, "the recipe was validated"
    if settings.backend == "http":
        return stack.enter_context(open_rollouts(settings, run.base.path, run.tokenizer))
    teacher = run.teacher() if settings.backend == "model" else None
    path = run.teacher_base.path
    rollouts = stack.enter_context(open_rollouts(settings, path, run.tokenizer, teacher))
    if teacher is None and run.teacher_base.adapter is not None:
        rollouts.refresh(run.teacher(), 0)
    return rollouts
