"""Rejection sampling: a model imitates its own replies that are right."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from training.base import Family, Method, RowClass
from training.conversions import as_rows
from training.data import deduplicate, problem_of, read_rows, squeeze, write_rows
from training.rows import Conversation, Labelled, Message, Prompted

if TYPE_CHECKING:
    from training.rollouts.base import Rollouts
    from training.rollouts.samples import Sampler
    from training.run import Run

Distinct: TypeAlias = Literal["equations", "text", "all"]
KEPT = "kept.jsonl"
_EQUATION = re.compile(r"(?<![\d\s.,()$%+*/×÷^-])[\d\s.,()$%+*/×÷^-]++=\s*+([-+$\d.,]++)")
"""Both sides of `3 + 4 = 7`; possessive, so that no text makes it slow."""


class RejectionSampling(Method):
    """Draw replies, keep the right and distinct ones, imitate them; repeat with the better model.

    One round is RFT (2308.01825): k replies to a prompt, one kept for each list of equations.
    Several are ReST-EM (2312.06585), which begins each round's training from the base and keeps at
    most 10 replies to a prompt, or with `begin = "last"` ReST (2308.08998), which goes on. With
    `hint` prompts that no reply solves are asked again with the answer told, and a right reply is
    kept as though it was not: STaR's rationalisation (2203.14465). Right is what has a reward of
    `threshold` and ended by itself.

    A round is the directory round-N of the run: `samples/` all replies with their rewards,
    `hinted/` those that were told the answer, `kept.jsonl` the rows imitated, the trainer's log and
    states. The run's own log has a line for each round: `accuracy`, the share of right replies of
    the model before it; `coverage`, the share of prompts with a right one; `kept`, `hinted`.
    """

    type: Literal["rejection_sampling"] = "rejection_sampling"
    paper: ClassVar[str] = (
        "Yuan et al., Scaling Relationship on Learning Mathematical Reasoning with LLMs, 2308.01825"
    )
    family: ClassVar[Family] = "fine-tuning"
    rows: ClassVar[RowClass] = Prompted
    on_policy: ClassVar[bool] = True
    rewarded: ClassVar[bool] = True

    learning_rate: float = Field(2e-5, gt=0, description="Of AdamW; 10 times that for LoRA.")
    rounds: int = Field(1, ge=1, le=100, description="Of drawing and training.")
    samples: int = Field(100, ge=1, description="k, replies to a prompt in a round.")
    temperature: float = Field(0.7, gt=0, description="Of drawing.")
    max_tokens: int = Field(512, ge=1, description="Of a reply.")
    threshold: float = Field(0.5, description="The least reward of a right reply.")
    distinct: Distinct = Field("equations", description="Of replies that agree in it one is kept.")
    most: int = Field(10, ge=1, description="Kept replies to a prompt in a round, at most.")
    begin: Literal["base", "last"] = Field("base", description="What a round trains further.")
    accumulate: bool = Field(False, description="Imitate the rows of earlier rounds as well.")
    hint: str | None = Field(
        None,
        min_length=1,
        description="Said behind a question that no reply solved; {reference} is its answer.",
    )

    def train(self, run: Run) -> None:
        """Go through the rounds, from the newest that has a state to resume from."""
        from accelerate import PartialState

        from training.imitation import imitate
        from training.rollouts.samples import Drawing, Sampler

        model: Any = None

        def open_rollouts(stack: ExitStack) -> Rollouts:
            return stack.enter_context(run.rollouts(model or run.policy()))

        drawing = Drawing(self.samples, self.max_tokens, self.temperature, self.threshold)
        with Sampler(run, drawing, open_rollouts) as sampler:
            for number in range(_first(run.directory, self.rounds), self.rounds + 1):
                directory = round_directory(run.directory, number)
                with PartialState().main_process_first():
                    if not (directory / KEPT).exists():
                        self._select(run, sampler, number, model)
                if model is None or self.begin == "base":
                    model = run.policy()
                model = imitate(run, model, self._rows(run, number), directory).model
                _sweep(run.directory, number)
        run.publish(model)

    def _select(self, run: Run, sampler: Sampler, number: int, model: Any) -> None:
        """Draw a round's replies, and write down those that it imitates."""
        from training.run import RunError

        directory = round_directory(run.directory, number)
        drawn = sampler.draw(directory, run.rows, model=model, step=number - 1)
        right = [row for row in drawn if row.label == 1]
        solved = {problem_of(row) for row in right}
        hinted: list[Labelled] = []
        missed = [row for row in run.rows if problem_of(row) not in solved]
        if self.hint is not None and (known := [row for row in missed if row.reference]):
            told = [hinting(row, self.hint) for row in known]
            again = sampler.draw(
                directory / "hinted", known, asked=told, model=model, step=number - 1
            )
            hinted = [row for row in again if row.label == 1]
        kept = select(right + hinted, self.distinct, self.most)
        if not kept:
            raise RunError(
                f"round {number}: none of {len(run.rows) * self.samples} replies is right: see "
                f"{directory / 'samples'}"
            )
        write_rows(directory / KEPT, as_rows(kept, Conversation))
        numbers = {
            "accuracy": len(right) / (len(run.rows) * self.samples),
            "coverage": len(solved) / len({problem_of(row) for row in run.rows}),
            "kept": len(kept),
            "hinted": len({problem_of(row) for row in hinted}),
        }
        run.record(number, numbers)

    def _rows(self, run: Run, number: int) -> Sequence[Conversation]:
        first = 1 if self.accumulate else number
        files = [round_directory(run.directory, each) / KEPT for each in range(first, number + 1)]
        rows = read_rows(files, Conversation, strict=True, check=run.within_context).rows
        return deduplicate(rows)


def select(right: Iterable[Labelled], distinct: Distinct, most: int) -> list[Labelled]:
    """Keep of each problem's replies the first of those that agree, and so many at most."""
    kept: dict[str, dict[object, Labelled]] = defaultdict(dict)
    for place, row in enumerate(right):
        of_problem = kept[problem_of(row)]
        key = likeness(row.reply, distinct) if distinct != "all" else place
        if len(of_problem) < most:
            of_problem.setdefault(key, row)
    return [row for of_problem in kept.values() for row in of_problem.values()]


def likeness(reply: str, distinct: Distinct) -> tuple[str, ...]:
    """Return what is equal for replies of which one is enough.

    The equations in their order, without white space; where there is none, or for `text`, the
    words.
    """
    found = [match.group() for match in _EQUATION.finditer(reply)]
    if distinct == "equations" and found:
        return tuple("".join(each.split()).rstrip(".,") for each in found)
    return (squeeze(reply),)


def hinting(row: Prompted, hint: str) -> Prompted:
    """Tell the answer behind the last question."""
    assert row.reference is not None, "the rows were chosen so"
    *before, last = row.prompt
    said = f"{last.content}\n\n{hint.replace('{reference}', row.reference)}"
    return row.model_copy(update={"prompt": (*before, Message(role=last.role, content=said))})


def round_directory(directory: Path, number: int) -> Path:
    """Return the directory of a round; they count from 1."""
    return directory / f"round-{number}"


def _first(directory: Path, rounds: int) -> int:
    """Find the newest round that was trained in; what came before it is in its state."""
    from training.callbacks import last_whole_state

    trained = (
        number
        for number in range(rounds, 0, -1)
        if last_whole_state(round_directory(directory, number)) is not None
    )
    return next(trained, 1)


def _sweep(directory: Path, number: int) -> None:
    """Remove the states of the round before, which nothing goes on from any more."""
    for state in round_directory(directory, number - 1).glob("checkpoint-*"):
        shutil.rmtree(state, ignore_errors=True)
