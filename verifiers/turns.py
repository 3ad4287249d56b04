"""Turns of a conversation as plain text, for prompts that quote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from verifiers.answers import canonical_tool_calls
from verifiers.types import TOKEN_IDS, Candidate, JSONObject, Prompt, Reply, Task


def text_of(message: JSONObject) -> str:
    """Return what a message says, its images left out."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def spoken(candidate: Candidate) -> str:
    """Return a reply without its thinking, its tool calls as text."""
    if not candidate.tool_calls:
        return candidate.content
    return f"{candidate.content}\n{canonical_tool_calls(candidate.tool_calls)}".strip()


def transcript(prompt: Prompt) -> str:
    """Write a conversation down as text, a paragraph each turn."""
    return "\n\n".join(f"{each['role']}: {text_of(each)}" for each in prompt.messages)


def own_question(task: Task, messages: Sequence[JSONObject], engine: str | None) -> Prompt:
    """Make a prompt of a verifier's own words, for the policy as the client has it, or another."""
    return _prompt(task, tuple(messages), engine)


def question_after(
    task: Task, candidate: Candidate, question: str, engine: str | None = None
) -> Prompt:
    """Make a prompt that asks after the reply: what both share is found in the policy's cache."""
    reply: dict[str, Any] = {"role": "assistant", "content": spoken(candidate)}
    if candidate.token_ids and engine is None:
        reply[TOKEN_IDS] = candidate.token_ids
    asked = {"role": "user", "content": question}
    return _prompt(task, (*task.prompt.messages, reply, asked), engine)


def reply_so_far(task: Task, reply: Reply, engine: str | None = None) -> Prompt:
    """Make a prompt that goes on where a reply stands, to see what comes next."""
    return replace(_prompt(task, task.prompt.messages, engine), reply=reply)


def _prompt(task: Task, messages: tuple[JSONObject, ...], engine: str | None) -> Prompt:
    """Another engine has neither the policy's adapter nor what is said to its template."""
    if engine is not None:
        return Prompt(messages)
    own = task.prompt
    return Prompt(messages, template_arguments=own.template_arguments, adapter=own.adapter)
