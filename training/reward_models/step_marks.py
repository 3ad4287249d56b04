"""Replies with the verdicts on their steps, where the verifier `process_reward` reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.data import DataError, problem_of
from training.encoding import Encoder, padded
from training.rows import Stepped
from verifiers.process_reward import ProcessReward
from verifiers.steps import step_ends
from verifiers.types import Candidate


class Marked(NamedTuple):
    """Token ids, and the verdicts that follow some of them."""

    ids: tuple[int, ...]
    places: tuple[int, ...]
    """Of the last token before a verdict."""
    labels: tuple[float, ...]
    problem: str


def encode_steps(verifier: ProcessReward, row: Stepped, encoder: Encoder) -> list[Marked]:
    """Encode a reply as the verifier asks about its steps: up to each mark.

    What begins another text is read there, as a model looks back only: if the separator is the
    mark, all steps are read in one text.

    Raises:
        DataError: the row's steps are not those that the verifier would find.
    """
    text, labels = "".join(row.steps), row.labels
    ends = list(accumulate(map(len, row.steps)))
    if ends != step_ends(text, verifier.separator):
        raise DataError(
            f"problem {problem_of(row)}: its steps do not end where the verifier's do, at "
            f"{verifier.separator!r}: {row.steps[0]!r} …"
        )
    if len(labels) > verifier.max_steps:
        labels = (*labels[: verifier.max_steps - 1], labels[-1])
    prompt, problem = encoder.prompt(row.prompt), problem_of(row)
    asked = [prompt + encoder.text(reply.text) for reply in verifier.marked(Candidate("", text))]
    whole: dict[tuple[int, ...], dict[int, float]] = {}
    for ids, label in sorted(zip(asked, labels, strict=True), key=lambda each: -len(each[0])):
        home = next((longer for longer in whole if longer[: len(ids)] == ids), ids)
        whole.setdefault(home, {})[len(ids) - 1] = label
    return [
        Marked(ids, tuple(sorted(found)), tuple(found[place] for place in sorted(found)), problem)
        for ids, found in whole.items()
    ]


def marked_batch(rows: Sequence[Marked], pad_id: int) -> dict[str, Tensor]:
    """Pad rows on the right.

    `input_ids`, `attention_mask`: (rows, tokens); of each verdict, (verdicts,): `row`, `place` and
    `label`.
    """
    marks = [
        (number, place, label)
        for number, row in enumerate(rows)
        for place, label in zip(row.places, row.labels, strict=True)
    ]
    return {
        "input_ids": padded([row.ids for row in rows], pad_id),
        "attention_mask": padded([(1,) * len(row.ids) for row in rows], 0),
        "row": torch.tensor([row for row, _, _ in marks]),
        "place": torch.tensor([place for _, place, _ in marks]),
        "label": torch.tensor([label for _, _, label in marks]),
    }


def mark_logprobs(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probabilities of the token after each mark, (verdicts, vocabulary)."""
    places, where = batch["place"].unique(return_inverse=True)
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        logits_to_keep=places,
        use_cache=False,
    ).logits
    found: Tensor = logits[batch["row"], where].float().log_softmax(-1)
    return found
