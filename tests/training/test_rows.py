"""Rows: what each kind accepts, and what it says of what it does not."""

from typing import Any

import pytest
from pydantic import ValidationError

from training.rows import ROWS, Conversation, Labelled, Pair, Prompted, Ranking, Stepped

USER = {"role": "user", "content": "What is 6 times 7?"}
REPLY = {"role": "assistant", "content": "42"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"role": "tool", "content": "42"}


def fault(kind: str, **row: Any) -> tuple[str, str]:
    """Return where and what the first fault is."""
    with pytest.raises(ValidationError) as raised:
        ROWS[kind].model_validate(row)
    first = raised.value.errors()[0]
    return ".".join(map(str, first["loc"])), first["type"]


def test_a_string_is_one_user_message() -> None:
    row = Prompted.model_validate({"prompt": "What is 6 times 7?"})
    assert [each.model_dump() for each in row.prompt] == [USER]


@pytest.mark.parametrize(
    "messages",
    [
        [USER, REPLY],
        [SYSTEM, USER, REPLY],
        [USER, REPLY, USER, REPLY],
        [USER, REPLY, TOOL, TOOL, REPLY],
    ],
)
def test_conversations_in_order(messages: list[dict[str, str]]) -> None:
    assert len(Conversation.model_validate({"messages": messages}).messages) == len(messages)


@pytest.mark.parametrize(
    "messages",
    [
        [REPLY, USER],
        [SYSTEM, REPLY],
        [SYSTEM, SYSTEM],
        [USER, USER, REPLY],
        [USER, REPLY, REPLY],
        [USER, SYSTEM, REPLY],
        [USER, REPLY, USER],
        [USER, TOOL, REPLY],
    ],
)
def test_wrong_role_orders(messages: list[dict[str, str]]) -> None:
    assert fault("sft", messages=messages) == ("messages", "role_order")


def test_a_prompt_ends_with_a_question() -> None:
    assert fault("prompts", prompt=[USER, REPLY]) == ("prompt", "role_order")
    assert fault("prompts", prompt=[]) == ("prompt", "too_short")


def test_blank_texts_are_empty() -> None:
    assert fault("pairs", prompt="q", chosen=" \n", rejected="b") == ("chosen", "empty")
    assert fault("groups", prompt="q", chosen=["a", ""], rejected=["b"]) == ("chosen.1", "empty")
    assert fault("labels", prompt="", reply="a", label=1) == ("prompt.0.content", "empty")
    assert fault("groups", prompt="q", chosen=[], rejected=["b"]) == ("chosen", "too_short")


def test_labels_are_probabilities() -> None:
    assert fault("labels", prompt="q", reply="a", label=1.5)[0] == "label"
    assert fault("labels", prompt="q", reply="a", label=float("nan"))[0] == "label"
    assert fault("steps", prompt="q", steps=["a"], labels=[-0.1])[0] == "labels.0"
    assert fault("pairs", prompt="q", chosen="a", rejected="b", margin=float("inf"))[0] == "margin"


def test_a_label_for_each_step() -> None:
    assert fault("steps", prompt="q", steps=["a", "b"], labels=[1])[1] == "value_error"
    row = Stepped.model_validate({"prompt": "q", "steps": ["a\n", "\n"], "labels": [1, 0.25]})
    assert row.labels == (1.0, 0.25)


def test_unknown_fields_are_refused() -> None:
    assert fault("rankings", prompt="q", replies=["a", "b"], winner=0) == (
        "winner",
        "extra_forbidden",
    )


@pytest.mark.parametrize(
    "row",
    [
        Pair(prompt="q", chosen="a", rejected="b", margin=0.5, source={"trace": "x"}),
        Ranking(prompt="q", replies=("a", "b"), reference="a", problem="7"),
        Labelled(prompt="q", reply="½ \n", label=0.5, fields={"tests": ["assert f(1)"]}),
    ],
)
def test_written_is_read(row: Prompted) -> None:
    assert type(row).model_validate_json(row.model_dump_json()) == row
