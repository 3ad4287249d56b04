"""What training data looks like: one class for each kind of row, a JSONL line each.

A prompt is OpenAI messages, or a string for one user message. Replies are texts of the assistant.
`problem` groups rows of the same problem: splits and bootstraps go by it. `source` says where the
row came from; nothing reads it but people.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

ROLE_ORDER = "role_order"
EMPTY = "empty"
"""Types of our own validation errors, beside pydantic's."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError(EMPTY, "empty")
    return text


Text: TypeAlias = Annotated[str, AfterValidator(_not_blank)]


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: Text


def _as_messages(value: Any) -> Any:
    return ({"role": "user", "content": value},) if isinstance(value, str) else value


def _in_order(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Hold a conversation to its order: system first if at all, then users and replies in turn."""
    turns = messages[1:] if messages[0].role == "system" else messages
    if not turns or turns[0].role != "user":
        raise PydanticCustomError(
            ROLE_ORDER, "the first turn after the system's must be the user's"
        )
    for before, after in itertools.pairwise(turns):
        misplaced = after.role == "system" or (before.role, after.role) == ("user", "tool")
        if misplaced or before.role == after.role != "tool":
            raise PydanticCustomError(
                ROLE_ORDER,
                "role '{after}' cannot follow '{before}'",
                {"after": after.role, "before": before.role},
            )
    return messages


def _dialogue(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if _in_order(messages)[-1].role != "assistant":
        raise PydanticCustomError(ROLE_ORDER, "the last turn must be the assistant's")
    return messages


def _question(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if _in_order(messages)[-1].role == "assistant":
        raise PydanticCustomError(ROLE_ORDER, "a prompt ends with the user's turn, or a tool's")
    return messages


class Row(BaseModel):
    """What every row may have."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: ClassVar[str]
    """As `forethought export --kind` and error messages call it."""

    problem: str | None = Field(None, description="Of which problem; default: the prompt's text.")
    source: dict[str, Any] = Field(default_factory=dict, description="Where it came from.")


class Conversation(Row):
    """A dialogue to imitate; the loss is on the assistant's turns.

    `rationale` beside it: the last reply is the label alone, and the rationale a second task of
    its own (step-by-step distillation, 2305.02301).
    """

    kind: ClassVar[str] = "sft"

    messages: Annotated[tuple[Message, ...], Field(min_length=2), AfterValidator(_dialogue)]
    rationale: Text | None = None


class Prompted(Row):
    """What all rows with a prompt have, and prompts to draw replies from themselves."""

    kind: ClassVar[str] = "prompts"

    prompt: Annotated[
        tuple[Message, ...],
        BeforeValidator(_as_messages),
        Field(min_length=1),
        AfterValidator(_question),
    ]
    reference: Text | None = Field(None, description="The right answer.")
    fields: dict[str, Any] = Field(
        default_factory=dict, description="What else verifiers are told, such as `tests`."
    )


class Pair(Prompted):
    """Two replies, one preferred. `margin` is how much, in units of reward (Llama 2, 2307.09288).

    `prefix` is what both replies begin with and neither is judged by (Step-DPO, 2406.18629).
    """

    kind: ClassVar[str] = "pairs"

    chosen: Text
    rejected: Text
    margin: float | None = Field(None, ge=0)
    prefix: str = ""


class Groups(Prompted):
    """Several replies of either side, to compare as groups."""

    kind: ClassVar[str] = "groups"

    chosen: Annotated[tuple[Text, ...], Field(min_length=1)]
    rejected: Annotated[tuple[Text, ...], Field(min_length=1)]


class Ranking(Prompted):
    """Replies, best first."""

    kind: ClassVar[str] = "rankings"

    replies: Annotated[tuple[Text, ...], Field(min_length=2)]


class Labelled(Prompted):
    """One reply that is right, or desirable, or not; or right with a probability."""

    kind: ClassVar[str] = "labels"

    reply: Text
    label: float = Field(ge=0, le=1)


class Stepped(Prompted):
    """A reply cut into steps, each with the probability that it is right.

    The reply is the steps joined as they are: separators belong to the steps.
    """

    kind: ClassVar[str] = "steps"

    steps: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    labels: tuple[Annotated[float, Field(ge=0, le=1)], ...]

    @model_validator(mode="after")
    def _one_label_each(self) -> Stepped:
        if len(self.steps) != len(self.labels):
            raise ValueError(f"{len(self.steps)} steps have {len(self.labels)} labels")
        return self


ROWS: dict[str, type[Row]] = {
    cls.kind: cls for cls in (Conversation, Prompted, Pair, Groups, Ranking, Labelled, Stepped)
}
"""Every kind of row by its name."""
