"""The vocabulary: the nouns that every other file uses, and nothing else.

Values are frozen. Token counts come from the engine. Nothing here imports anything of ours.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncGenerator, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

JSONObject: TypeAlias = Mapping[str, Any]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]

UNSCORED = -math.inf

TOKEN_IDS = "token_ids"
"""Key of an assistant message, ours and no client's: the ids that the reply was generated as.

Engines with ids put just these into the prompt, so that what comes after the reply finds it in the
prefix cache; others leave the key out and take the text.
"""


def sample_seed(seed: int, place: int | str) -> int:
    """Return the seed (63 bits) of one sample by its place: index in a group, path in a request.

    A hash, because engines that fan out use seed + index: seed + 1 would repeat their samples.
    """
    digest = hashlib.blake2b(f"{seed}/{place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class TokenLogprob(NamedTuple):
    """One generated token: its text, natural-log probability, and the likeliest alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    top_ids: tuple[int, ...] = ()
    """The ids of `top`, where the engine has ids."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the assistant has already said, for an engine to go on with.

    `token_ids` is empty where the engine has no ids; `text` is then the truth.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a reply is generated from. The messages and tools are OpenAI's, already validated."""

    messages: tuple[JSONObject, ...]
    tools: tuple[JSONObject, ...] = ()
    tool_choice: str | JSONObject | None = None
    parallel_tool_calls: bool | None = None
    response_format: JSONObject | None = None
    """OpenAI's `json_object` or `json_schema`, or ours: `{"type": "regex", "regex": …}`."""
    template_arguments: JSONObject = field(default_factory=dict)
    adapter: str | None = None
    """A LoRA adapter that the engine has under this name."""
    cache_salt: str | None = None
    """Prompts find each other's beginnings in the prefix cache only where they have the same."""
    reply: Reply | None = None
    plain: bool = False
    """The one message is the whole prompt, as it is: its `TOKEN_IDS`, or else its text.

    No chat template is applied, and no parser looks for tools or reasoning in the reply.
    """

    @property
    def constrained(self) -> bool:
        """Whether a grammar rules the reply: then it cannot be continued, as grammars restart."""
        forced_tool = bool(self.tools) and self.tool_choice not in (None, "auto", "none")
        kind = (self.response_format or {}).get("type", "text")
        return forced_tool or kind != "text"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one reply is drawn. `None` means the model's own default (its generation_config)."""

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    """Go on after the token that ends a reply: for load tests, which want a length."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    keep_stop: bool = False
    """Keep the stop string in the text: a token may span it (`.\\n\\n`)."""
    bad_words: tuple[str, ...] = ()
    thinking_token_budget: int | None = None
    seed: int | None = None
    first: int = 0
    """Sample i of a group draws with `sample_seed(seed, first + i)`: splitting changes nothing.

    Over HTTP the upstream itself adds i to the seed that it is sent, which is a hash plus `first`.
    """
    logprobs: int | None = None
    """None: none. 0: of the generated tokens. k: also of the k likeliest at each place."""
    reply_logprobs: bool = False
    """Give those of the reply that the prompt goes on with too, before the new tokens' own.

    It costs the reply's prefix its place in the cache: only for measuring a given reply.
    """
    incremental: bool = False
    """Someone reads the tokens before the reply ends; otherwise one chunk a sample is enough."""

    @property
    def restarts(self) -> bool:
        """Whether a parameter counts from the reply's start, so that continuing would change it.

        A repetition penalty does not: it counts the prompt as well.
        """
        return bool(
            self.min_tokens
            or self.presence_penalty
            or self.frequency_penalty
            or self.thinking_token_budget is not None
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A reply as its reader sees it: the raw text parsed by the engine's parsers, as a whole."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[JSONObject, ...] = ()
    """OpenAI tool calls: `{"id", "type": "function", "function": {"name", "arguments"}}`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and calls, added up. `exact` is false where aborted work was booked as reserved."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    exact: bool = True

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.exact and other.exact,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of sample `index` of a group, new since that sample's last chunk.

    Only `message` is the parse of the whole reply so far (None: `text` is the content).
    """

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    message: Message | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    """The stop string or stop token id that ended the sample; None: the model's own end."""
    usage: Usage = Usage()
    """What the engine has counted since the last chunk (`calls` is the session's to count)."""
    error: Exception | None = None
    """This sample failed, the others of the group go on. It is the sample's last chunk."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reply, whole or in the making."""

    id: str
    """Its path: session, call and index, such as `0.1.3`; equal for the same request and seed."""
    text: str = ""
    """The raw reply: the decoding of all token ids."""
    token_ids: tuple[int, ...] = ()
    tokens: int = 0
    """Generated tokens, as the engine counted them."""
    logprobs: tuple[TokenLogprob, ...] = ()
    message: Message | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    score: float = UNSCORED
    steps: tuple[float, ...] = ()
    parent: str | None = None

    @property
    def done(self) -> bool:
        """Whether the reply has ended by itself, at a stop string or at its own length cap."""
        return self.finish_reason is not None

    @property
    def content(self) -> str:
        """The visible answer, without reasoning and tool calls."""
        return self.text if self.message is None else self.message.content

    @property
    def reasoning(self) -> str:
        """The thinking that a reasoning parser set apart."""
        return "" if self.message is None else self.message.reasoning

    @property
    def tool_calls(self) -> tuple[JSONObject, ...]:
        """The calls that a tool parser found in the reply."""
        return () if self.message is None else self.message.tool_calls

    @property
    def mean_logprob(self) -> float:
        """Mean natural-log probability per generated token; -inf where the engine gives none."""
        if not self.logprobs:
            return -math.inf
        return sum(entry.logprob for entry in self.logprobs) / len(self.logprobs)


@dataclass(frozen=True, slots=True)
class Score:
    """A verifier's word on one candidate: higher is better, a probability where the kind allows."""

    value: float
    steps: tuple[float, ...] = ()
    abstained: bool = False


class Continuation(StrEnum):
    """How an engine goes on with a reply."""

    TOKEN_IDS = "token_ids"
    """By ids: exact, and it finds its prefix in the cache."""
    TEXT = "text"
    """By a prefilled assistant message (`continue_final_message`): re-tokenised."""
    NONE = "none"
    """Not at all: strategies that extend are a 400."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do, probed at start."""

    context_length: int
    """Tokens of prompt and reply together."""
    continuation: Continuation = Continuation.NONE
    seeds: bool = False
    logprobs: int | None = None
    """Most alternatives per token; 0: only the generated token's; None: none at all."""
    reply_logprobs: bool = False
    """It can tell the log-probabilities of a reply that it is given."""
    counts_live: bool = False
    """An incremental sample's chunks count its tokens as they come, so an aborted one is exact."""
    grammars: bool = False
    tools: bool = False
    plain: bool = False
    """It takes a prompt without a chat template."""
    together: bool = False
    """n samples are cheaper as one group than as n groups of one."""
    end_tokens: tuple[int, ...] = ()
    """Ids that end a reply: the ids of one that ended by itself hold it, its text does not."""
    adapters: tuple[str, ...] = ()
    """Those that it has now: an `AdapterHost` may be given others."""
    defaults: Mapping[str, float] = field(default_factory=dict)
    """The model's generation_config, as far as it is applied."""


class Engine(Protocol):
    """A source of samples. Closing the generator aborts the work; there is no other way to."""

    @property
    def model(self) -> str:
        """The name under which clients ask for this model."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; known once it has started. Of it, only `adapters` may change."""

    @property
    def statistics(self) -> Mapping[str, float]:
        """The engine's own numbers by name, a counter's ends with `_total`; empty: it has none."""

    def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        """Draw n samples of one prompt, started together; chunks of all come interleaved.

        Raises EngineError and its kinds, BadRequest where the prompt cannot be served. A sample
        that fails alone ends with a chunk that holds its `error`.
        """

    async def count_tokens(self, prompt: Prompt) -> int:
        """Count the prompt's tokens after the chat template; 0 where the engine cannot tell."""

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text that is put into a reply; () where the engine has no ids."""

    async def aclose(self) -> None:
        """Release everything."""


@runtime_checkable
class AdapterHost(Protocol):
    """An engine that can be given LoRA adapters while it runs."""

    @property
    def adapter_slots(self) -> int:
        """How many it can be given, beside those that it started with."""

    async def add_adapter(self, name: str, directory: Path) -> None:
        """Load an adapter, to be asked for as `Prompt.adapter`.

        A name must mean the same weights for ever: the engine's cache goes by it. Raises
        EngineError where it cannot be loaded; what runs is not disturbed.
        """

    async def remove_adapter(self, name: str) -> None:
        """Forget an adapter that no request uses. Raises EngineError."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a verifier judges by: the prompt, and the fields that the request gave it."""

    prompt: Prompt
    fields: JSONObject = field(default_factory=dict)
    known: MutableMapping[Hashable, float] = field(default_factory=dict)
    """What the verifier keeps while the request lasts, under all that it hangs on: the prompt too,
    as a request asks about several."""


class Equivalence(Protocol):
    """Answer comparison with time limits; `verifiers.answers` describes what an answer is."""

    async def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Tell for each pair of canonical answers whether they mean the same."""

    async def matches(self, pattern: str, texts: Sequence[str]) -> list[bool]:
        """Tell for each text whether the regular expression is found in it."""

    async def conforms(self, schema: JSONObject, texts: Sequence[str]) -> list[bool]:
        """Tell for each text whether it is JSON that satisfies the JSON schema."""


class Powers(Protocol):
    """The Session's face for verifiers: whatever is generated is reserved, counted, cancellable."""

    @property
    def equivalence(self) -> Equivalence:
        """The one answer-comparison service."""

    async def ask(
        self,
        prompts: Sequence[Prompt],
        n: int = 1,
        *,
        engine: str | None = None,
        **sampling: Any,
    ) -> list[list[Candidate]]:
        """Draw n replies to each of several prompts, at once, in stage `verify`.

        They come from the policy's engine, or from the one that the configuration names `engine`.
        Where a prompt has a `reply` to go on with, the candidates hold what is new alone (with
        `reply_logprobs`, the log-probabilities of both). Keywords are fields of `Sampling`; none of
        the request's own apply. A list is shorter, or empty, where the budget could not pay: then
        the verifier abstains.
        """

    async def tokenize(self, text: str, *, engine: str | None = None) -> tuple[int, ...]:
        """Return the ids of a text that is put into a reply; () where the engine has no ids."""
