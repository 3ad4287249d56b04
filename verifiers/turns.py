"""Turns of a conversation as plain text, for prompts that quote them."""

from __future__ import annotations

from verifiers.answers import canonical_tool_calls
from verifiers.types import Candidate, JSONObject


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
