"""The bodies of the endpoints that judge and choose among replies which the client brings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field
from typing_extensions import TypedDict

from server.wire import INT64, BudgetFields, Conversation, ModelName
from server.wire_messages import FAIL_FAST, STRICT, Message, ResponseFormat, ToolCall
from verifiers.types import FinishReason

_NOT_CUT = "texts are taken whole"
REFUSED_BY_RERANK = {
    "max_tokens_per_doc": _NOT_CUT,
    "max_tokens_per_query": _NOT_CUT,
    "truncate_prompt_tokens": _NOT_CUT,
    "max_chunks_per_doc": _NOT_CUT,
    "rank_fields": "a document is its `text`",
    "instruction": "give the verifier its own fields, such as `criteria`",
    "priority": "requests are served in fair turns",
}
"""What clients of other rerankers send, refused with a reason."""


def _short_for(key: str, whole: Any) -> BeforeValidator:
    """Let a string stand for the object that holds nothing but it, under `key`."""
    return BeforeValidator(
        lambda value: {key: value} if isinstance(value, str) else value,
        json_schema_input_type=str | whole,
    )


class GivenReply(TypedDict):
    """A reply to judge; as in `scaling.candidates` of an answer."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    content: NotRequired[Annotated[str | None, Field(description="What was said.")]]
    reasoning: NotRequired[Annotated[str | None, Field(description="What was thought.")]]
    tool_calls: NotRequired[
        Annotated[
            Annotated[list[ToolCall], FAIL_FAST, MaxLen(128)] | None,
            Field(description="Calls that the reply made."),
        ]
    ]
    finish_reason: NotRequired[
        Annotated[
            FinishReason | None,
            Field(description="Left out, it ended by itself; null: it was cut off."),
        ]
    ]


class RecordedReply(GivenReply):
    """A reply to choose among, with what is known of it."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    id: NotRequired[Annotated[str, MinLen(1), MaxLen(256)]]
    """By which others name it as their `parent`."""
    parent: NotRequired[str | None]
    """The reply that it goes on with."""
    tokens: NotRequired[Annotated[int, Ge(0), Le(INT64 - 1)]]
    """Its length."""
    score: NotRequired[float | None]
    """A verifier's; null: it abstained."""
    steps: NotRequired[Annotated[list[float], FAIL_FAST]]
    """A verifier's score after each step."""
    mean_logprob: NotRequired[Annotated[float, Le(0)] | None]
    """Of its tokens."""
    correct: NotRequired[bool | None]
    """Whether it is right, where that is known."""


class Text(TypedDict):
    """A query, or a document to rank."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    text: str
    """The text."""


GivenText: TypeAlias = Annotated[Text, _short_for("text", Text)]
_Texts: TypeAlias = Annotated[list[GivenText], FAIL_FAST, MinLen(1)]
_ONE_OF_MANY = BeforeValidator(
    lambda value: value if isinstance(value, list) else [value],
    json_schema_input_type=_Texts | GivenText,
)
"""Let one thing stand for a list of it."""
GivenTexts: TypeAlias = Annotated[_Texts, _ONE_OF_MANY]
Include: TypeAlias = Annotated[list[Literal["candidates"]], FAIL_FAST]


class VerifyRequest(Conversation):
    """Replies to one conversation, to be scored by a verifier."""

    candidates: Annotated[
        list[Annotated[GivenReply, _short_for("content", GivenReply)]],
        FAIL_FAST,
        MinLen(1),
        Field(description="Replies; a string is one without reasoning and tool calls."),
    ]
    verifier: str | dict[str, Any] | None = Field(
        None, description="A configured name, or it with fields. Default: the server's."
    )
    budget: BudgetFields | None = None
    """What the request may spend."""
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    """For verifiers that sample."""
    include: Include | None = Field(
        None, description="`candidates`: each reply with its score, and the answer found in it."
    )


class _Ranking(BaseModel):
    """What reranking and scoring have in common."""

    model_config = STRICT

    model: ModelName | None = Field(
        None, description="A verifier, or what chats name: then the default verifier judges."
    )
    verifier: str | dict[str, Any] | None = Field(
        None, description="A configured name, or it with fields; it wins over `model`."
    )
    budget: BudgetFields | None = None
    """What the request may spend."""
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    """For verifiers that sample."""
    user: str | None = None
    """Accepted without effect."""


class RerankRequest(_Ranking):
    """Documents to be sorted by how well they answer a query: as Jina, Cohere and vLLM have it."""

    query: GivenText
    """What is asked."""
    documents: GivenTexts
    """What might answer it."""
    top_n: int | None = Field(None, ge=0, description="Results to return; 0: all.")
    return_documents: bool | None = Field(None, description="Default: true.")


class ScoreRequest(_Ranking):
    """Pairs of texts to be scored, as vLLM has it: 1 with each of N, or N with N."""

    text_1: GivenTexts = Field(
        validation_alias=AliasChoices("text_1", "queries", "data_1"),
        description="Queries; also named `queries` or `data_1`.",
    )
    text_2: GivenTexts = Field(
        validation_alias=AliasChoices("text_2", "documents", "items", "data_2"),
        description="What answers them; also named `documents`, `items` or `data_2`.",
    )


_Recorded: TypeAlias = Annotated[RecordedReply, _short_for("content", RecordedReply)]


class ReplayRequest(BaseModel):
    """Replies that were drawn once, to be chosen from again."""

    model_config = STRICT

    trace: Annotated[str, MinLen(1), MaxLen(256)] | None = Field(
        None, description="The id of a stored trace; or else `candidates`."
    )
    candidates: (
        Annotated[
            list[Annotated[RecordedReply, _short_for("content", RecordedReply)]],
            FAIL_FAST,
            MinLen(1),
        ]
        | None
    ) = Field(None, description="Replies in the order of drawing, as in `scaling.candidates`.")
    messages: Annotated[list[Message], FAIL_FAST, MinLen(1)] | None = None
    """The conversation that they answer."""
    response_format: ResponseFormat | None = None
    """The form that was asked for."""
    k: Annotated[list[Annotated[int, Ge(1)]], FAIL_FAST, MinLen(1), MaxLen(64)] | None = Field(
        None, description="How many of them, from the first on. Default: powers of two, and all."
    )
