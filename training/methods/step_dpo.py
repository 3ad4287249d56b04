"""Preferences between single steps."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field

from training.base import Family, Method, RowClass
from training.data import DataError
from training.rows import Pair
from verifiers.steps import BLANK_LINE, step_ends

if TYPE_CHECKING:
    from training.encoding import Encoder
    from training.preference.pairs import EncodedPair
    from training.run import Run


class StepDPO(Method):
    """Prefer the right step to the wrong one, both after the same right beginning.

    Step-DPO, 2406.18629, by TRL: DPO in which a reply's beginning belongs to the prompt, and the
    loss is on the first step in which the two differ, alone. A pair may say its beginning
    (`prefix`); steps that both replies share after it are added to it, and what follows the first
    different step is left out. A reply that has no more steps has its end as its step.
    """

    type: Literal["step_dpo"] = "step_dpo"
    paper: ClassVar[str] = (
        "Lai et al., Step-DPO: Step-wise Preference Optimization for Long-chain Reasoning, "
        "2406.18629"
    )
    family: ClassVar[Family] = "preference"
    rows: ClassVar[RowClass] = Pair

    learning_rate: float = Field(5e-7, gt=0, description="Of AdamW; 10 times that for LoRA.")
    beta: float = Field(0.4, gt=0, description="β: how strongly the reference holds the policy.")
    separator: str = Field(BLANK_LINE, min_length=1, description="Ends a step.")

    def train(self, run: Run) -> None:
        """Train by TRL."""
        from training.preference.encoded_trainers import train_dpo

        pairs = [encode_steps(run.encoder, row, self.separator) for row in run.rows]
        train_dpo(run, pairs, loss="sigmoid", beta=self.beta)


class Step(NamedTuple):
    """The next step of a reply, empty where it has none."""

    text: str
    ended: bool
    """Whether the reply's end belongs to it."""


def encode_steps(encoder: Encoder, row: Pair, separator: str) -> EncodedPair:
    """Encode the first different steps of two replies. Raises DataError where there are none."""
    from training.preference.pairs import EncodedPair

    prefix, chosen, rejected = first_difference(row, separator)
    if chosen == rejected:
        raise DataError(f"the two replies of a pair are the same: {row.chosen[:60]!r}")
    return EncodedPair(
        *(
            encoder.row(row.prompt, step.text, prefix=prefix, ended=step.ended)
            for step in (chosen, rejected)
        )
    )


def first_difference(row: Pair, separator: str) -> tuple[str, Step, Step]:
    """Return what both replies begin with, in whole steps, and the step that follows in each.

    Of a reply that is one step alone it is not known whether it ends there: then it does not.
    """
    chosen, rejected = (_steps(reply, separator) for reply in (row.chosen, row.rejected))
    both = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    shared = len(list(both))
    steps = [
        Step(
            "".join(each[shared : shared + 1]),
            shared == len(each) or (shared + 1 == len(each) and shared > 0),
        )
        for each in (chosen, rejected)
    ]
    return row.prefix + "".join(chosen[:shared]), steps[0], steps[1]


def _steps(text: str, separator: str) -> list[str]:
    ends = step_ends(text, separator)
    return [text[start:end] for start, end in itertools.pairwise([0, *ends])]
