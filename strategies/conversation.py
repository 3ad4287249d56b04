"""Messages that strategies put around a conversation, and prompts with {placeholders}."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import AfterValidator

from strategies.session import Session
from verifiers.turns import spoken, text_of
from verifiers.types import Candidate, JSONObject

MAX_PROMPT = 20_000
"""Characters of the longest prompt that a request may give as a parameter."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def asked(text: str) -> JSONObject:
    """Return a turn of the user."""
    return {"role": "user", "content": text}


def replied(text: str) -> JSONObject:
    """Return a turn of the assistant."""
    return {"role": "assistant", "content": text}


def said(candidate: Candidate) -> JSONObject:
    """Return a reply as a turn: without its thinking, tool calls as text, for nobody answers them.

    Chat templates want the result of a call before anything else is said.
    """
    return replied(spoken(candidate))


def question_of(messages: Sequence[JSONObject]) -> str:
    """Return the text of the user's last turn; empty where there is none."""
    place = _last_question(messages)
    return "" if place is None else text_of(messages[place])


def with_question(messages: Sequence[JSONObject], text: str) -> list[JSONObject]:
    """Return the conversation with another text in the user's last turn; its images stay."""
    place = _last_question(messages)
    if place is None:
        return [*messages, asked(text)]
    content = messages[place].get("content")
    others = [] if isinstance(content, str | None) else [p for p in content if p["type"] != "text"]
    put = [*others, {"type": "text", "text": text}] if others else text
    return [*messages[:place], {**messages[place], "content": put}, *messages[place + 1 :]]


def apart(text: str, after: str) -> str:
    """Return a text as it is put into a reply: in a paragraph of its own, unless a line begins."""
    return text if after.endswith("\n") or not after else f"\n\n{text}"


def fill(template: str, **values: str) -> str:
    """Put values in the place of {placeholders}, literally: values and other braces stay as is."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)


def holds(*placeholders: str) -> AfterValidator:
    """Return a check that a template has each of these {placeholders}."""

    def check(template: str) -> str:
        missing = set(placeholders) - set(_PLACEHOLDER.findall(template))
        if missing:
            raise ValueError("it lacks " + ", ".join(f"{{{name}}}" for name in sorted(missing)))
        return template

    return AfterValidator(check)


def newest_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Order versions of a reply, oldest first: finished ones first, then the newest."""
    newest = candidates[::-1]
    return sorted(newest, key=lambda each: not each.done)


async def same_answer(session: Session, first: Candidate, second: Candidate) -> bool:
    """Tell whether two replies answer the same; where one marks no answer: in the same words."""
    aside = session.fork(session.prompt.messages, formats=True)
    votes = await aside.votes([first, second])
    same_words = first.content.strip() == second.content.strip()
    return same_words if votes.abstained else len(votes.classes) == 1


def _last_question(messages: Sequence[JSONObject]) -> int | None:
    places = (i for i in reversed(range(len(messages))) if messages[i]["role"] == "user")
    return next(places, None)
