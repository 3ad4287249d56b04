"""Replies put into a prompt as the very ids that they were generated as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from verifiers.errors import BadRequest
from verifiers.types import TOKEN_IDS, JSONObject


def last_spliced(messages: Sequence[JSONObject]) -> int | None:
    """Return the place of the last message that carries token ids."""
    places = [place for place, each in enumerate(messages) if each.get(TOKEN_IDS)]
    return places[-1] if places else None


def stand_in(message: JSONObject) -> dict[str, Any]:
    """Return a message that nobody can have written, to be found in the rendered template."""
    return {"role": message["role"], "content": f"reply-{uuid4().hex}"}


def text_after(content: str, rendered: str) -> str:
    """Return what the template puts after a stand-in.

    Raises BadRequest where the template does not show that turn as it was said, once.
    """
    parts = rendered.split(content)
    if len(parts) != 2:
        raise BadRequest("the chat template does not show what the assistant said before")
    return parts[1]


def without_end(token_ids: Sequence[int], end_tokens: Sequence[int]) -> Sequence[int]:
    """Leave out the token that ended the reply: the template writes its own there."""
    return token_ids[:-1] if token_ids[-1] in end_tokens else token_ids
