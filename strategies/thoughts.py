"""What a search over thoughts shares: asking for many replies at once, and reading them.

What cannot be read with certainty abstains: a model that does not keep to the form says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from strategies.concurrency import lossy
from strategies.conversation import with_question
from strategies.session import Session
from verifiers.concurrency import together
from verifiers.errors import EngineError
from verifiers.types import Candidate

_MARK = re.compile(r"^(?:[-*•]|(?:step\s?)?\d{1,3}[.):])\s+", re.IGNORECASE)
_LABEL = r"^\W{0,6}(?:\w{1,20}\W{0,3}:\W{0,6})?"
_GRADE = re.compile(_LABEL + r"(\d{1,2}(?:\.\d{1,3})?)(?:\s?/\s?10)?\W{0,6}$")
_VOTE = re.compile(
    r"best choice is\W{0,6}(?:choice\W{1,4})?(\d{1,4})\b"
    r"|^\W{0,4}(?:choice\W{1,4})?(\d{1,4})\W{0,4}$",
    re.IGNORECASE,
)


async def ask(
    session: Session, prompts: Sequence[str], n: int, **sampling: Any
) -> list[list[Candidate]]:
    """Draw n replies to each prompt, put in the place of the question; all at the same time.

    What could not be paid or was lost is missing.
    """
    messages = session.prompt.messages
    forks = [session.fork(with_question(messages, prompt), stop=()) for prompt in prompts]
    return await drawn(fork.sample(n, **sampling) for fork in forks)


async def drawn(
    work: Iterable[Coroutine[Any, Any, Sequence[Candidate]]],
) -> list[list[Candidate]]:
    """Run side by side what draws replies; nothing comes of what was not paid, or failed."""
    errors: list[EngineError] = []
    found = await together(lossy(each, errors) for each in work)
    return [[reply for replies in some for reply in replies] for some in found]


def visible(reply: Candidate) -> str:
    """Return what a reply says after its thinking; nothing where the thinking never ended."""
    text = reply.content.rpartition("</think>")[2]
    return "" if "<think>" in text else text.strip()


def listed(reply: Candidate, end: str) -> list[str]:
    """Return the lines of a list without their marks; a cut line, headings and `end` are none."""
    lines = visible(reply).splitlines()
    if reply.finish_reason != "stop":
        lines = lines[:-1]
    items = [_MARK.sub("", line.strip(), count=1).strip() for line in lines]
    return [each for each in items if each and not each.endswith(":") and not _says(each, end)]


def whole(reply: Candidate, end: str) -> list[str]:
    """Return the reply as the one thing that it says; nothing where it was cut or says `end`."""
    text = visible(reply)
    ended = reply.finish_reason == "stop"
    return [text] if ended and text and not _says(text, end) else []


def verdict(reply: Candidate, words: Sequence[str]) -> str | None:
    """Return the word of `words` that the last line is, alone or after a label."""
    choice = "|".join(map(re.escape, words))
    said = re.match(f"{_LABEL}({choice})\\W{{0,6}}$", _last_line(reply), re.IGNORECASE)
    return said[1].lower() if said else None


def grade(reply: Candidate) -> float | None:
    """Return the grade from 0 to 10 that the last line is, alone or after a label."""
    said = _GRADE.match(_last_line(reply))
    return float(said[1]) if said and float(said[1]) <= 10 else None


def vote(reply: Candidate, count: int) -> int | None:
    """Return the place, from 0 on, of the one choice of `count` that a reply names, if any."""
    named = {int(sentence or alone) for sentence, alone in _VOTE.findall(visible(reply))}
    number = named.pop() if len(named) == 1 else 0
    return number - 1 if 1 <= number <= count else None


def _last_line(reply: Candidate) -> str:
    lines = visible(reply).splitlines() if reply.finish_reason == "stop" else []
    return lines[-1].strip() if lines else ""


def _says(text: str, word: str) -> bool:
    return text.strip(" \t*_`\"'.!").lower() == word.lower()
