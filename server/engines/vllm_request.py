"""A prompt and its sampling as a body of vLLM's chat API."""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from verifiers.types import TOKEN_IDS, Prompt, Sampling

_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "min_tokens",
    "ignore_eos",
    "thinking_token_budget",
)

_FREE = (None, "auto", "none")
"""Tool choices that force nothing."""


def chat_request(prompt: Prompt, sampling: Sampling) -> ChatCompletionRequest:
    """Write both down; what is absent takes the model's default. Raises pydantic's error."""
    return ChatCompletionRequest(**_fields(prompt, sampling))


def grammar_field(prompt: Prompt) -> str | None:
    """Return the request's field that a grammar is made of, if one rules the reply."""
    if not prompt.constrained:
        return None
    return "tools" if prompt.tools and prompt.tool_choice not in _FREE else "response_format"


def _fields(prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "messages": [  # copies: vLLM edits them in place
            {key: value for key, value in each.items() if key != TOKEN_IDS}
            for each in prompt.messages
        ],
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "include_stop_str_in_output": sampling.keep_stop,
        "bad_words": list(sampling.bad_words),
        "stream": sampling.incremental,
        "logprobs": sampling.logprobs is not None,
        "top_logprobs": sampling.logprobs or 0,
        "prompt_logprobs": 0 if sampling.reply_logprobs else None,
        "chat_template_kwargs": dict(prompt.template_arguments),
    }
    given = {name: getattr(sampling, name) for name in _SAME_NAME}
    fields |= {name: value for name, value in given.items() if value is not None}
    if prompt.tools:
        fields["tools"] = [dict(tool) for tool in prompt.tools]
        fields["tool_choice"] = prompt.tool_choice or "auto"
        if prompt.parallel_tool_calls is not None:
            fields["parallel_tool_calls"] = prompt.parallel_tool_calls
    if prompt.cache_salt is not None:
        fields["cache_salt"] = prompt.cache_salt
    return fields | _grammar(prompt)


def _grammar(prompt: Prompt) -> dict[str, Any]:
    if prompt.response_format is None:
        return {}
    if prompt.response_format["type"] == "regex":
        return {"structured_outputs": {"regex": prompt.response_format["regex"]}}
    return {"response_format": dict(prompt.response_format)}
