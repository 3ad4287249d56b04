"""The body of `POST /v1/completions`: OpenAI's legacy fields, and vLLM's that we take."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag

from server.wire import (
    INT64,
    Bias,
    BiasedToken,
    BudgetFields,
    ChatRequest,
    ModelName,
    Penalty,
    StreamOptions,
    TokenId,
    Word,
)
from server.wire_messages import FAIL_FAST, STRICT
from verifiers.types import TOKEN_IDS, Prompt

REFUSED = {
    "suffix": "nothing is filled in between",
    "best_of": "use /v1/chat/completions with the strategy `best_of_n`",
    "verifier": "one reply is drawn for each choice, and nothing judges it",
}
"""Refused with a reason; every other unknown field is refused without one."""

RENAMED = {
    "messages": "prompt",
    "max_completion_tokens": "max_tokens",
    "top_logprobs": "logprobs",
}
"""What the chat line calls the fields of this body."""

DEFAULT_TOKENS = 16
"""OpenAI's own default for this endpoint."""


def _kind(prompt: Any) -> str:
    first = prompt[0] if isinstance(prompt, list) and prompt else None
    if isinstance(first, int):
        return "ids"
    if isinstance(first, list):
        return "list of ids"
    return "text" if first is None else "list of texts"


Text: TypeAlias = Annotated[str, MinLen(1)]
Ids: TypeAlias = Annotated[list[Annotated[TokenId, Le(2**31 - 1)]], FAIL_FAST, MinLen(1)]
GivenPrompt: TypeAlias = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[Annotated[list[Text], FAIL_FAST, MaxLen(1)], Tag("list of texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[Annotated[list[Ids], FAIL_FAST, MaxLen(1)], Tag("list of ids")],
    Discriminator(_kind),
]


def _refuse_echo(asked: bool) -> bool:
    if asked:
        raise ValueError("the prompt is not sent back")
    return asked


_NEVER: dict[str, Any] = {"anyOf": [{"const": False}, {"type": "null"}]}


class CompletionRequest(BaseModel):
    """A prompt that is taken as it is: no chat template, one strategy, `single`."""

    model_config = STRICT

    prompt: GivenPrompt = Field(description="A text, or token ids; a list may hold one of them.")
    model: ModelName | None = None
    """A model, adapter or preset of `/v1/models`. Default: the main engine's model."""
    strategy: Literal["single"] | dict[Literal["type"], Literal["single"]] | None = None
    """One reply is drawn for each choice, and nothing else is served here."""
    budget: BudgetFields | None = None
    """What the request may spend."""
    max_tokens: int | None = Field(None, ge=1, description=f"Default: {DEFAULT_TOKENS}.")
    n: int | None = Field(None, ge=1, le=1024)
    """Continuations to return."""
    stream: bool | None = None
    """Whether to send the text as it comes."""
    stream_options: StreamOptions | None = None
    """What a stream tells beside the text."""
    logprobs: Annotated[int, Ge(0), Le(20)] | None = None
    """Tell the log-probabilities of the tokens, and of so many alternatives to each."""
    echo: Annotated[bool, AfterValidator(_refuse_echo)] | None = Field(
        None, description="Only false: the prompt is not sent back.", json_schema_extra=_NEVER
    )
    stop: Word | Annotated[list[Word], FAIL_FAST, MaxLen(16)] | None = None
    """Texts at which a continuation ends."""
    temperature: float | None = Field(None, ge=0, le=2)
    """How much chance there is in sampling; 0: none. Default: the model's."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Sample among the likeliest tokens that have this much of the probability together."""
    frequency_penalty: Penalty | None = None
    """Against tokens by how often they came."""
    presence_penalty: Penalty | None = None
    """Against tokens that came at all."""
    logit_bias: Annotated[dict[BiasedToken, Bias], MaxLen(1024)] | None = None
    """What is added to the logits of tokens, by their ids."""
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    """With the same seed the same request has the same answer, as far as the engine can."""
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    """Sample among so many tokens only; -1 or 0: all."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Sample among tokens that have at least this share of the likeliest one's probability."""
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    """Against tokens that came at all, as a factor; 1: none."""
    min_tokens: int | None = Field(None, ge=0)
    """Tokens before which no continuation ends."""
    ignore_eos: bool | None = None
    """Whether a continuation goes on where the model would end it, up to its most tokens."""
    stop_token_ids: Annotated[list[TokenId], FAIL_FAST, MaxLen(64)] | None = None
    """Tokens at which a continuation ends."""
    bad_words: Annotated[list[Word], FAIL_FAST, MaxLen(256)] | None = None
    """Texts that no continuation holds."""
    user: str | None = None
    """Accepted without effect."""

    @property
    def asked(self) -> Prompt:
        """What is asked."""
        (given,) = [self.prompt] if isinstance(self.prompt, str) else self.prompt[:1]
        ids = self.prompt if isinstance(given, int) else given
        if isinstance(ids, str):
            return Prompt(({"role": "user", "content": ids},), plain=True)
        return Prompt(({"role": "user", "content": "", TOKEN_IDS: tuple(ids)},), plain=True)

    def as_chat(self) -> ChatRequest:
        """Say the same to the chat line."""
        own = {"prompt", "strategy", "echo", "max_tokens", "logprobs", "stream_options", "budget"}
        return ChatRequest(
            messages=[{"role": "user", "content": ""}],
            budget=self.budget,
            max_completion_tokens=self.max_tokens or DEFAULT_TOKENS,
            logprobs=self.logprobs is not None,
            top_logprobs=self.logprobs,
            stream_options=self.stream_options,
            **self.model_dump(exclude=own, exclude_none=True),
        )
