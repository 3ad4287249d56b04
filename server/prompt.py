"""The prompt of a request in the vocabulary's terms, checked as a whole."""

from __future__ import annotations

from typing import Any

from server.resolve import Target
from server.schemas import check_pattern_bounds, check_schema_bounds
from server.settings import Effort
from server.wire import TEMPLATE_RESERVED, Conversation
from server.wire_messages import Message
from verifiers.errors import BadRequest
from verifiers.types import Capabilities, JSONObject, Prompt

_NOT_FOR_TEMPLATES = frozenset({"refusal", "audio", "function_call", "annotations"})
"""What clients send back of a reply and no chat template reads."""


def make_prompt(
    wire: Conversation, target: Target, most: int, effort: Effort | None = None
) -> Prompt:
    """Check what the types cannot say, and put the prompt together.

    Raises:
        BadRequest: too many messages, tools that do not fit.
    """
    if len(wire.messages) > most:
        raise BadRequest(f"this server takes at most {most} messages", param="messages")
    prompt = Prompt(
        tuple(_message(index, message) for index, message in enumerate(wire.messages)),
        tuple(_without_none(tool) for tool in wire.tools or ()),
        wire.tool_choice,
        wire.parallel_tool_calls,
        _grammar(wire),
        _template_arguments(wire, effort),
        target.adapter,
    )
    _check_tools(prompt)
    _check_grammar(prompt.response_format)
    return prompt


def _message(index: int, message: Message) -> JSONObject:
    kept = {
        key: value
        for key, value in message.items()
        if value is not None and key not in _NOT_FOR_TEMPLATES
    }
    if message["role"] == "developer":
        kept["role"] = "system"
    elif message["role"] == "assistant" and not kept.keys() & {"content", "tool_calls"}:
        raise BadRequest("a reply has content or tool calls", param=f"messages.{index}.content")
    return kept


def _without_none(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        key: each if key == "parameters" else _without_none(each)
        for key, each in value.items()
        if each is not None
    }


def _grammar(wire: Conversation) -> JSONObject | None:
    asked = wire.response_format
    return None if asked is None or asked["type"] == "text" else asked


def _template_arguments(wire: Conversation, effort: Effort | None) -> dict[str, Any]:
    arguments = dict(wire.chat_template_kwargs or {})
    for name in arguments:
        if name in TEMPLATE_RESERVED:
            raise BadRequest(
                "that is not the client's to say", param=f"chat_template_kwargs.{name}"
            )
    if effort is not None:
        arguments.setdefault("reasoning_effort", effort)
    return arguments


def _check_tools(prompt: Prompt) -> None:
    names = [tool["function"]["name"] for tool in prompt.tools]
    if len(set(names)) < len(names):
        raise BadRequest("two tools have the same name", param="tools")
    for place, tool in enumerate(prompt.tools):
        schema = tool["function"].get("parameters") or {}
        check_schema_bounds(schema, f"tools.{place}.function.parameters")
    choice = prompt.tool_choice
    if not names and choice not in (None, "auto", "none"):
        raise BadRequest("there are no `tools` to choose from", param="tool_choice")
    if not isinstance(choice, str | None) and choice["function"]["name"] not in names:
        raise BadRequest("no tool has that name", param="tool_choice.function.name")


def _check_grammar(asked: JSONObject | None) -> None:
    if asked is None:
        return
    if asked["type"] == "json_schema":
        schema = asked["json_schema"].get("schema") or {}
        check_schema_bounds(schema, "response_format.json_schema.schema")
    elif asked["type"] == "regex":
        check_pattern_bounds(asked["regex"], "response_format.regex")


def check_powers(prompt: Prompt, able: Capabilities) -> None:
    """Refuse what an engine cannot do. Raises BadRequest."""
    if prompt.plain and not able.plain:
        raise BadRequest("this engine takes messages only: use /v1/chat/completions")
    if prompt.tools and prompt.tool_choice != "none" and not able.tools:
        raise BadRequest("this model is served without tools", param="tools")
    if prompt.response_format is not None and not able.grammars:
        raise BadRequest("this engine has no grammars", param="response_format")
