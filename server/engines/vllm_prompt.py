"""Prompts in vLLM's own terms: chat template, reply so far, grammars, sampling parameters.

A `Prompt` becomes vLLM's `ChatCompletionRequest`, so that everything vLLM's server does with one
(the template, forced tools, the model's sampling defaults) happens here as it does there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.sampling_params import RequestOutputKind
from vllm.tool_parsers import ToolParser, ToolParserManager

from server.engines.vllm_reply import ReplyReader
from server.engines.vllm_request import chat_request, grammar_field
from server.engines.vllm_splice import last_spliced, stand_in, text_after, without_end
from verifiers.errors import BadRequest
from verifiers.types import TOKEN_IDS, Prompt, Reply, Sampling

_FORCED_ONLY = "forced_only"
"""Name of vLLM's base tool parser: it forces and reads plain JSON, but finds no call by itself."""

_FIELDS = {
    "input_text": "messages",
    "input_tokens": "messages",
    "structured_outputs": "response_format",
    "json_schema": "response_format",
}
"""The request's names for what vLLM's errors name otherwise."""

_TOOL = {
    "type": "function",
    "function": {"name": "probe", "description": "", "parameters": {"type": "object"}},
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt ready for the engine."""

    engine_input: Mapping[str, Any]
    request: Any
    """vLLM's ChatCompletionRequest, as its parsers adjusted it."""
    sampling: Any
    """vLLM's SamplingParams, still without a seed."""
    reasoning: Mapping[str, Any]
    """What a grammar must know of the thinking: whether it is over before the first token."""
    prefix: Reply
    grammar_field: str | None
    """The request's field that a grammar was made of: vLLM's errors in it name none."""
    plain: bool

    @property
    def length(self) -> int:
        """Tokens of template, messages and the reply so far."""
        return len(self.engine_input["prompt_token_ids"])


class ChatRenderer:
    """Renders the prompts of one model, and reads its replies."""

    def __init__(self, core: Any, tool_parser: str | None, reasoning_parser: str | None) -> None:
        ToolParserManager.register_module(_FORCED_ONLY, module=ToolParser)
        self._finds_calls = tool_parser is not None
        self._reasons = reasoning_parser is not None
        self._model = core.model_config
        self._tokenizer = core.renderer.get_tokenizer()
        self._defaults: dict[str, Any] = self._model.get_diff_sampling_param()
        self._online = OnlineRenderer(
            core.model_config,
            core.renderer,
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
            enable_auto_tools=True,
            tool_parser=tool_parser or _FORCED_ONLY,
            reasoning_parser=reasoning_parser,
        )

    @property
    def context_length(self) -> int:
        """Tokens of prompt and reply together."""
        length: int = self._model.max_model_len
        return length

    @property
    def defaults(self) -> dict[str, float]:
        """The model's generation_config, as far as sampling goes."""
        return {name: value for name, value in self._defaults.items() if name != "max_tokens"}

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokenizer's own end of a text, then those of the model's generation_config."""
        own: int | None = self._tokenizer.eos_token_id
        listed: int | list[int] | None = self._model.try_get_generation_config().get("eos_token_id")
        others = [listed] if isinstance(listed, int) else listed or []
        return tuple(dict.fromkeys([own, *others] if own is not None else others))

    async def shows_tools(self) -> bool:
        """Tell whether the chat template puts tools into the prompt."""
        message = {"role": "user", "content": "?"}
        plain = await self.render(Prompt((message,)), Sampling(1))
        tooled = await self.render(Prompt((message,), (_TOOL,), "required"), Sampling(1))
        return plain.length != tooled.length

    async def render(self, prompt: Prompt, sampling: Sampling) -> Rendered:
        """Apply the template, append the reply so far and settle the sampling parameters.

        A plain prompt is taken as it is. Raises BadRequest where the template refuses
        or the context leaves no room for a token.
        """
        try:
            request = chat_request(prompt, sampling)
            if request.tools and request.tool_choice == "auto" and not self._finds_calls:
                raise BadRequest(
                    "this model is served without a tool parser: "
                    "`tool_choice` can be required, none or a function",
                    param="tool_choice",
                )
            engine_input = await self._engine_input(request, prompt)
            prefix = self._tokenized(prompt.reply)
            token_ids = [*engine_input["prompt_token_ids"], *prefix.token_ids]
            cap = min(sampling.max_tokens, self._room(len(token_ids)))
            settled = request.to_sampling_params(cap, self._defaults)
        except (VLLMClientError, ValidationError) as error:
            raise bad_request(error) from error
        if not sampling.incremental:
            settled.output_kind = RequestOutputKind.FINAL_ONLY
        return Rendered(
            {**engine_input, "prompt_token_ids": token_ids},
            request,
            settled,
            {} if prompt.plain else self._reasoning(request, token_ids),
            prefix,
            grammar_field(prompt),
            prompt.plain,
        )

    async def _engine_input(
        self, request: ChatCompletionRequest, prompt: Prompt
    ) -> Mapping[str, Any]:
        """Render; the last reply whose ids are known is put in as these ids.

        Up to there it is the prompt that the reply was an answer to, token for token, so that the
        cache knows it; what follows is text.
        """
        if prompt.plain:
            (message,) = prompt.messages
            ids = message.get(TOKEN_IDS) or self._tokenizer.encode(message["content"])
            plain: Mapping[str, Any] = tokens_input(list(ids), cache_salt=prompt.cache_salt)
            return plain
        place = last_spliced(prompt.messages)
        if place is None:
            return await self._rendered(request)
        request.messages[place] = spliced = stand_in(prompt.messages[place])
        after = text_after(spliced["content"], (await self._rendered(request))["prompt"])
        before = replace(prompt, messages=prompt.messages[:place], reply=None)
        asked = chat_request(before, Sampling(1))
        engine_input = await self._engine_input(asked, before)
        ids = without_end(prompt.messages[place][TOKEN_IDS], self.end_tokens)
        token_ids = [*engine_input["prompt_token_ids"], *ids, *self.tokenize(after)]
        return {**engine_input, "prompt_token_ids": token_ids}

    async def _rendered(self, request: ChatCompletionRequest) -> Mapping[str, Any]:
        rendered = await self._online.render_chat(request)
        if not isinstance(rendered, tuple):
            raise BadRequest(rendered.error.message, param=rendered.error.param)
        engine_input: Mapping[str, Any] = rendered[1][0]
        return engine_input

    def _tokenized(self, reply: Reply | None) -> Reply:
        if reply is None:
            return Reply()
        if reply.token_ids:
            return reply
        return Reply(reply.text, self.tokenize(reply.text))

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text, without special tokens around it."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _room(self, prompt_length: int) -> int:
        room = self.context_length - prompt_length
        if room < 1:
            raise BadRequest(
                f"the prompt's {prompt_length} tokens leave no room for a reply in the model's "
                f"context of {self.context_length} tokens",
                param="messages",
                code="context_length_exceeded",
            )
        return room

    def _reasoning(self, request: ChatCompletionRequest, token_ids: list[int]) -> dict[str, Any]:
        if not self._reasons:
            return {}
        return {
            "reasoning_ended": request.resolve_reasoning_ended(self._parser(request), token_ids),
            "reasoning_parser_kwargs": {"chat_template_kwargs": self._arguments(request)},
        }

    def _arguments(self, request: ChatCompletionRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = self._online.effective_chat_template_kwargs(request)
        return arguments

    def _parser(self, request: ChatCompletionRequest) -> Any:
        return self._online.parser(
            self._tokenizer,
            request.tools,
            chat_template_kwargs=self._arguments(request),
            model_config=self._model,
        )

    def reader(self, rendered: Rendered, *, incremental: bool) -> ReplyReader | None:
        """Make the reader of one sample; None where the text is all there is to see."""
        tools = bool(rendered.request.tools) and rendered.request.tool_choice != "none"
        if rendered.plain or not (tools or self._reasons):
            return None
        prompt_ids = rendered.engine_input["prompt_token_ids"]
        start = len(prompt_ids) - len(rendered.prefix.token_ids)
        return ReplyReader(
            self._parser(rendered.request),
            rendered.request,
            prompt_ids[:start],
            rendered.prefix,
            tools=tools,
            incremental=incremental,
        )


def bad_request(error: VLLMClientError | ValidationError, unnamed: str | None = None) -> BadRequest:
    """Say what vLLM says, naming the field as our API does; `unnamed` is for those without one."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return BadRequest(first["msg"], param=".".join(map(str, first["loc"])))
    if not isinstance(error, VLLMValidationError):
        return BadRequest(str(error), param=unnamed)
    name: str | None = error.parameter
    too_long = name in ("input_text", "input_tokens")
    return BadRequest(
        str(error.args[0]),
        param=_FIELDS.get(name, name) if name else unnamed,
        code="context_length_exceeded" if too_long else None,
    )
