"""Turn rows of one kind into rows of another that say the same, or less."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

from training.data import DataError
from training.rows import (
    Conversation,
    Groups,
    Labelled,
    Message,
    Pair,
    Prompted,
    Ranking,
    Row,
    Stepped,
)

RowT = TypeVar("RowT", bound=Row)


def as_rows(rows: Iterable[Row], wanted: type[RowT]) -> list[RowT]:
    """Return rows as the kind that is wanted; those that are of it stay as they are.

    | from | to | how |
    |---|---|---|
    | pairs | labels | chosen 1, rejected 0; a margin is lost |
    | groups | labels, pairs | each reply; each chosen with each rejected one |
    | rankings | pairs | each reply with each one below it |
    | steps | labels | the whole reply, with its last step's label |
    | labels, pairs, groups, rankings | sft | what is labelled 1, chosen, or first |
    | all | prompts | the prompt alone, once for each row |

    Raises:
        DataError: there is no such conversion.
    """
    found: list[RowT] = []
    for row in rows:
        if type(row) is wanted:
            found.append(row)
        elif (convert := _CONVERSIONS.get((type(row), wanted))) is not None:
            found += cast("Iterator[RowT]", convert(row))
        else:
            raise DataError(f"rows of kind {row.kind!r} do not make {wanted.kind!r}")
    return found


def _question(row: Prompted) -> dict[str, Any]:
    """Return what every row made of this one has of it."""
    return {name: getattr(row, name) for name in Prompted.model_fields}


def _judged(row: Prompted, right: Iterable[str], wrong: Iterable[str]) -> Iterator[Labelled]:
    for label, replies in ((1.0, right), (0.0, wrong)):
        for reply in replies:
            yield Labelled(**_question(row), reply=reply, label=label)


def _said(row: Prompted, replies: Iterable[str]) -> Iterator[Conversation]:
    for reply in replies:
        messages = (*row.prompt, Message(role="assistant", content=reply))
        yield Conversation(messages=messages, problem=row.problem, source=row.source)


def _paired(row: Prompted, pairs: Iterable[tuple[str, str]]) -> Iterator[Pair]:
    for chosen, rejected in pairs:
        yield Pair(**_question(row), chosen=chosen, rejected=rejected)


def _whole(row: Pair) -> Pair:
    if row.prefix:
        raise DataError("a pair of steps (`prefix`) is no pair of whole replies")
    return row


def _reply(row: Stepped) -> Iterator[Labelled]:
    yield Labelled(**_question(row), reply="".join(row.steps), label=row.labels[-1])


def _prompt(row: Prompted) -> Iterator[Prompted]:
    yield Prompted(**_question(row))


def _asked(row: Conversation) -> Iterator[Prompted]:
    yield Prompted(prompt=row.messages[:-1], problem=row.problem, source=row.source)


_CONVERSIONS: Mapping[tuple[type[Row], type[Row]], Callable[[Any], Iterator[Row]]] = {
    (Pair, Labelled): lambda row: _judged(_whole(row), [row.chosen], [row.rejected]),
    (Pair, Conversation): lambda row: _said(_whole(row), [row.chosen]),
    (Groups, Labelled): lambda row: _judged(row, row.chosen, row.rejected),
    (Groups, Pair): lambda row: _paired(row, itertools.product(row.chosen, row.rejected)),
    (Groups, Conversation): lambda row: _said(row, row.chosen),
    (Ranking, Pair): lambda row: _paired(row, itertools.combinations(row.replies, 2)),
    (Ranking, Conversation): lambda row: _said(row, row.replies[:1]),
    (Labelled, Conversation): lambda row: _said(row, [row.reply] if row.label == 1 else []),
    (Stepped, Labelled): _reply,
    (Conversation, Prompted): _asked,
    **{(kind, Prompted): _prompt for kind in (Pair, Groups, Ranking, Labelled, Stepped)},
}
