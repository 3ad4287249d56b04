"""Labelled replies as tensors: what verifiers of whole replies are trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypeAlias, TypedDict

import torch
from rich.progress import track
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainingArguments

from training.data import problem_of
from training.encoding import Encoded, padded
from training.reward_models.frozen_layers import check_cut, lower_part
from training.rows import Labelled


class Example(TypedDict):
    """One reply; a dictionary with `input_ids`, as samplers by length want it."""

    input_ids: tuple[int, ...]
    reply_mask: tuple[bool, ...]
    label: float
    weight: float
    problem: str
    states: NotRequired[Tensor]
    """What the frozen layers make of it, (tokens, hidden)."""


Collate: TypeAlias = Callable[[Sequence[Example]], dict[str, Tensor]]


def examples(
    rows: Sequence[Labelled], encode: Callable[[Labelled], Encoded], *, balanced: bool = False
) -> list[Example]:
    """Encode rows; `balanced`: right ones together weigh as much as wrong ones."""
    right = sum(row.label for row in rows)
    sides = (right, len(rows) - right)
    if not balanced or min(sides, default=0) == 0:
        sides = (len(rows) / 2, len(rows) / 2)
    found = []
    for row in rows:
        encoded = encode(row)
        found.append(
            Example(
                input_ids=encoded.ids,
                reply_mask=encoded.mask,
                label=row.label,
                weight=_weight(row.label, len(rows), *sides),
                problem=problem_of(row),
            )
        )
    return found


def with_lower_states(
    model: Any, rows: Sequence[Example], frozen: int, pad_id: int, arguments: TrainingArguments
) -> list[Example]:
    """Run the frozen layers over every row, and put beside it what they make of it."""
    ids = [row["input_ids"] for row in rows]
    found: list[Example] = list(rows)
    if not rows:
        return found
    with torch.autocast(arguments.device.type, torch.bfloat16, enabled=arguments.bf16):
        batch_size = arguments.per_device_eval_batch_size
        model.to(arguments.device)
        parts = lower_part(model, ids, frozen, pad_id=pad_id, batch_size=batch_size)
        for place, states in track(
            parts, "lower layers", total=len(ids), disable=arguments.process_index != 0
        ):
            with_states = rows[place].copy()
            with_states["states"] = states
            found[place] = with_states
        check_cut(model, ids[0], found[0]["states"], frozen)
    return found


def collated(pad_id: int) -> Collate:
    """Return what pads examples on the right into one batch.

    `input_ids`, `attention_mask`, `reply_mask`: (rows, tokens); `label`, `weight`, `last`: (rows,),
    `last` being where the last token stands that is no padding; with states also `inputs_embeds`,
    (rows, tokens, hidden).
    """

    def collate(rows: Sequence[Example]) -> dict[str, Tensor]:
        ids = padded([row["input_ids"] for row in rows], pad_id)
        places = torch.arange(ids.shape[1])
        batch = {
            "input_ids": ids,
            "attention_mask": padded([(1,) * len(row["input_ids"]) for row in rows], 0),
            "reply_mask": padded([row["reply_mask"] for row in rows], 0).bool(),
            "label": torch.tensor([row["label"] for row in rows]),
            "weight": torch.tensor([row["weight"] for row in rows]),
            # As transformers' classifiers find it: a text's own last token may be the padding's.
            "last": (places * (ids != pad_id)).argmax(-1),
        }
        if "states" in rows[0]:
            batch["inputs_embeds"] = pad_sequence([row["states"] for row in rows], batch_first=True)
        return batch

    return collate


def model_inputs(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what of a batch the model itself is given."""
    given = "inputs_embeds" if "inputs_embeds" in batch else "input_ids"
    return {name: batch[name] for name in (given, "attention_mask")} | {"use_cache": False}


def _weight(label: float, rows: int, right: float, wrong: float) -> float:
    return rows / 2 * (label / right + (1 - label) / wrong)
