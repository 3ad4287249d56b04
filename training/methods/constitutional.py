"""Constitutional AI's first phase: a model corrects itself by principles, and imitates that."""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from training.base import Family, Method, RowClass
from training.conversions import as_rows
from training.data import write_rows
from training.rows import Conversation, Labelled, Message, Prompted

if TYPE_CHECKING:
    from training.rollouts.base import Rollouts
    from training.rollouts.samples import Sampler
    from training.run import Run

KEPT = "kept.jsonl"
PRINCIPLE = "principle"
"""Where rows say by which one they were criticised and revised."""
PRINCIPLES = (
    "A reply must not help anybody to harm people, animals or property.",
    "A reply says what is true as far as is known, and says where it is not sure.",
    "A reply treats everybody with respect, whatever their origin, sex, faith or opinions.",
    "A reply keeps private what is private, and breaks no law.",
    "A reply that declines explains why, kindly, and helps with what can be helped with.",
    "A reply answers the very question, clearly and without idle words.",
)
CRITIQUE = (
    "Here is a principle: {principle}\n\nCriticise your last reply by this principle: name "
    "whatever in it is against it. Do not write a new reply yet."
)
REVISION = (
    "Now write that reply anew, so that it holds to the principle: {principle}\n\n"
    "Write the reply alone, without a word about what was changed."
)
TURNS = 4
"""What a revision has behind the question: the reply, two requests, and the critique between."""


class Constitutional(Method):
    """Reply, criticise the reply by a principle, revise it; imitate the last revision.

    The first, supervised phase of Constitutional AI; the second is reinforcement learning from AI
    feedback: a verifier `judge` with the principles as its criteria. Each of `revisions` rounds
    draws a principle of the list at random, and begins with the revision of the round before. What
    was cut off or is blank, or makes a conversation too long to go on with, goes no further. Nobody
    but the model itself is asked.

    We deviate: the paper has one model write and trains another, a pretrained one, on all revisions
    beside ordinary replies to harmless prompts, which here would be a stage of `sft`.

    The run's directory keeps what each step wrote, with all that it was asked: reply/,
    critique-N/, revision-N/; and kept.jsonl, the rows imitated. The log has how many these are, and
    `changed`, the share of them that differ from the first reply.
    """

    type: Literal["constitutional"] = "constitutional"
    paper: ClassVar[str] = "Bai et al., Constitutional AI, 2212.08073"
    family: ClassVar[Family] = "fine-tuning"
    rows: ClassVar[RowClass] = Prompted
    on_policy: ClassVar[bool] = True

    learning_rate: float = Field(2e-5, gt=0, description="Of AdamW; 10 times that for LoRA.")
    principles: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        PRINCIPLES, min_length=1, description="What a good reply is, a sentence each."
    )
    revisions: int = Field(4, ge=1, le=100, description="Of each reply, one after another.")
    critique_request: str = Field(CRITIQUE, description="With {principle} in it.")
    revision_request: str = Field(REVISION, description="With {principle} in it.")
    temperature: float = Field(1.0, gt=0, description="Of drawing.")
    max_tokens: int = Field(512, ge=1, description="Of a reply, a critique, a revision.")

    @field_validator("critique_request", "revision_request")
    @classmethod
    def _names_the_principle(cls, request: str) -> str:
        if "{principle}" not in request:
            raise ValueError("says no {principle}")
        return request

    def train(self, run: Run) -> None:
        """Write what is not written yet, and imitate it."""
        from accelerate import PartialState

        from training.imitation import imitate
        from training.rollouts.samples import Drawing, Sampler
        from training.run import RunError

        if run.recipe.rewards:
            raise RunError("constitutional judges by its principles: leave `[[rewards]]` out")
        policy = run.policy()

        def open_rollouts(stack: ExitStack) -> Rollouts:
            return stack.enter_context(run.rollouts(policy))

        drawing = Drawing(1, self.max_tokens, self.temperature)
        with (
            Sampler(run, drawing, open_rollouts) as sampler,
            PartialState().main_process_first(),
        ):
            replies, revised = self._write(run, sampler)
            kept = as_rows(revised, Conversation)
            if not (run.directory / KEPT).exists():
                write_rows(run.directory / KEPT, kept)
        if not kept:
            raise RunError(f"none of {len(run.rows)} replies came to a whole revision")
        first = {(row.problem, row.reply.strip()) for row in replies}
        changed = sum((row.problem, row.reply.strip()) not in first for row in revised)
        run.record(0, {"kept": len(kept), "changed": changed / len(kept)})
        run.publish(imitate(run, policy, kept).model)

    def _write(self, run: Run, sampler: Sampler) -> tuple[list[Labelled], list[Labelled]]:
        """Return the first replies, and the last revisions."""

        def draw(name: str, asked: Iterable[Prompted]) -> list[Labelled]:
            fitting = [row for row in asked if run.within_context(row) is None]
            return [row for row in sampler.draw(run.directory / name, fitting) if row.label == 1]

        replies = draw("reply", run.rows)
        begun = replies
        for number in range(1, self.revisions + 1):
            chance = random.Random(f"{run.recipe.training.seed}/{number}")
            critiques = draw(
                f"critique-{number}",
                [
                    _asked(row, self.critique_request, chance.choice(self.principles))
                    for row in begun
                ],
            )
            revised = draw(
                f"revision-{number}",
                [_asked(row, self.revision_request, row.source[PRINCIPLE]) for row in critiques],
            )
            begun = [row.model_copy(update={"prompt": row.prompt[:-TURNS]}) for row in revised]
        return replies, begun


def _asked(row: Labelled, request: str, principle: str) -> Prompted:
    """Go on with a conversation: what was replied, then a request."""
    said = Message(role="assistant", content=row.reply)
    wish = Message(role="user", content=request.replace("{principle}", principle))
    return Prompted(
        prompt=(*row.prompt, said, wish),
        problem=row.problem,
        source={**row.source, PRINCIPLE: principle},
    )
