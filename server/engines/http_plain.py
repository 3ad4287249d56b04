"""OpenAI's legacy completions on the wire: a prompt without messages, answers told as a chat's.

So whoever reads chat completions (`http_wire`) reads these too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verifiers.errors import BadRequest
from verifiers.types import TOKEN_IDS, JSONObject, Prompt

PATH = "/completions"


def plain_fields(prompt: Prompt) -> dict[str, Any]:
    """Give the part of a body that says what is asked. Raises BadRequest."""
    (message,) = prompt.messages
    token_ids, begun = message.get(TOKEN_IDS), prompt.reply
    if not token_ids:
        return {"prompt": message["content"] + (begun.text if begun else "")}
    if begun is not None:
        raise BadRequest("this engine goes on with texts, not with token ids", param="messages")
    return {"prompt": list(token_ids)}


def as_chat(answer: Any) -> Any:
    """Tell a whole answer, or an event of a streamed one, as a chat's; another shape stays.

    Of an event, the text is the message's too: whoever reads one does not look at the other.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        return answer
    return {**answer, "choices": [_choice(each) for each in answer["choices"]]}


def _choice(choice: Any) -> Any:
    if not isinstance(choice, dict) or "text" not in choice:
        return choice
    told = {"content": choice["text"]}
    return {
        **choice,
        "message": told,
        "delta": told,
        "logprobs": _logprobs(choice.get("logprobs")),
    }


def _logprobs(told: Any) -> JSONObject | None:
    if not isinstance(told, Mapping):
        return None
    tokens, logprobs = told.get("tokens") or (), told.get("token_logprobs") or ()
    tops = told.get("top_logprobs") or [None] * len(tokens)
    return {
        "content": [
            {"token": token, "logprob": logprob, "top_logprobs": _top(top)}
            for token, logprob, top in zip(tokens, logprobs, tops, strict=False)
        ]
    }


def _top(top: Any) -> list[dict[str, Any]]:
    if not isinstance(top, Mapping):
        return []
    ranked = sorted(top.items(), key=lambda item: -item[1])
    return [{"token": token, "logprob": logprob} for token, logprob in ranked]
