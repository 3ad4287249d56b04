r"""What an answer is: found in a reply, brought to one form.

An answer has to be marked: boxed, after `####`, after "the answer is", or alone in a short reply.
Anything else abstains, as a wrong parse is worse than an abstention. The functions are pure and
total: no text makes them raise, and none makes them slow.
"""

from __future__ import annotations

import re

from verifiers.canonical import LONGEST, canonical, canonical_json, canonical_tool_calls
from verifiers.notation import tidy
from verifiers.numbers import parse_number, strip_unit
from verifiers.types import Candidate, Prompt

__all__ = [
    "answer_key",
    "answer_of",
    "canonical",
    "canonical_json",
    "canonical_tool_calls",
    "extract",
    "structured",
]

_SHORT_REPLY = 40
"""Characters of a one-line reply that is an answer as a whole."""

_TAIL = 20_000
"""Characters at the end of a reply in which its answer may be announced in words."""

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s{0,20}")
_OPEN_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,20}[^\s{}$]{0,200}$")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"[^\s{}$]{1,200}")
_GSM8K = re.compile(r"^####[ \t]{0,20}(\S[^\n]{0,200})$", re.MULTILINE)
_PHRASE = re.compile(
    r"\b(?:answer|(?:correct|right|best)\s(?:option|choice))[*_`]{0,3}"
    r"(?:\s(?:to|for|of)\s[^.:\n]{1,80}?)?\s{0,3}(?:\b(?:is|are|would be|must be)\b|[:=])"
    r"[:*_`\s]{0,12}",
    re.IGNORECASE,
)
_MARKS = ("answer", "option", "choice")
_MATHS = re.compile(
    r"\$\$(.{1,1000}?)\$\$|\$([^$\n]{1,1000})\$|\\\((.{1,1000}?)\\\)|\\\[(.{1,1000}?)\\\]",
    re.DOTALL,
)
_MONEY = re.compile(
    r"\\?\$\s?([0-9][0-9,]{0,40}(?:\.[0-9]{1,40})?)(?![0-9A-Za-z]|\s?[$^\\*/+=<>(-])"
)
_END = re.compile(
    r"\n|;|\*\*|[.!?](?=\s|$)|\s(?:because|since|as|which|so|when|if|for|where)\b"
    r"|,\s(?=[A-Za-z]{2})|\s\((?=[A-Za-z]{2})"
)
_LETTER = re.compile(r"\(?\b([A-J])\b(?:\)|[.):,](?=\s|$)|\s*$)")
_LEADING_NUMBER = re.compile(r"[+-]?[0-9][0-9,]{0,40}(?:\.[0-9]{1,40})?(?=\s+[A-Za-z])")
_ANY_NUMBER = re.compile(r"(?:(?<![\w.])-)?(?<![\w.])[0-9][0-9,]{0,40}(?:\.[0-9]{1,40})?")
_CALCULATION = re.compile(r"[0-9=+*/^\\]")
_SUBSTANCE = re.compile(r"[^\W_]|[∅∞]")
_DENIAL = re.compile(r"(?:not|n't|unknown|unclear)\b", re.IGNORECASE)


def extract(text: str, *, lenient: bool = False) -> str | None:
    """Return the answer that a reply marks as its own, the last one; None: it abstains.

    Args:
        text: the visible reply, without reasoning.
        lenient: take the last number of the reply where nothing is marked.
    """
    if _BOX.search(text):
        return _boxed(text)
    answer = _after_hashes(text) or _after_phrase(text)
    if answer is None and lenient:
        numbers = _ANY_NUMBER.findall(text)
        answer = numbers[-1].rstrip(",") if numbers else None
    return answer


def answer_of(candidate: Candidate, prompt: Prompt) -> str | None:
    """Return the answer of a candidate as it wrote it; None: it abstains.

    Tool calls and JSON come in canonical form. A reply that was cut off votes only with what it
    has certainly written: a closed box, a marked line that another line follows, whole JSON.
    """
    finished = candidate.finish_reason in ("stop", "tool_calls")
    if candidate.tool_calls:
        return canonical_tool_calls(candidate.tool_calls) if finished else None
    content = _after_thinking(candidate.content)
    kind = (prompt.response_format or {}).get("type")
    if kind in ("json_object", "json_schema"):
        complete = finished or content.rstrip().endswith(("}", "]"))
        return canonical_json(content) if complete else None
    if kind == "regex":
        return (content.strip() or None) if finished else None
    return (extract(content) or _whole(content)) if finished else _certain(content)


def structured(prompt: Prompt) -> bool:
    """Tell whether replies have a form that is compared literally."""
    return bool((prompt.response_format or {}).get("type", "text") != "text")


def answer_key(answer: str, prompt: Prompt) -> str:
    """Return the key under which an answer of `answer_of` votes; empty: nothing to vote for."""
    return answer if structured(prompt) else canonical(answer)


def _boxed(text: str) -> str | None:
    r"""Return what is in the last outermost `\boxed{…}`; None if that one is never closed."""
    closing = _closing_braces(text)
    start, end = -1, -1
    for box in _BOX.finditer(text):
        if box.start() < end:
            continue
        start = box.end()
        if text[start : start + 1] == "{":
            end = closing.get(start, -1)
            start += 1
        else:
            bare = _UNBRACED.match(text, start)
            end = bare.end() if bare else -1
    if end < 0:
        return None
    content = text[start:end].strip()
    inner = _BOX.match(content)
    if inner and content[inner.end() : inner.end() + 1] == "{" and content.endswith("}"):
        content = content[inner.end() + 1 : -1].strip()
    content = content if text[end : end + 1] == "}" else content.rstrip(".,;")
    return content if 0 < len(content) <= LONGEST else None


def _closing_braces(text: str) -> dict[int, int]:
    """Return the place of the closing brace for each opening one, in one pass."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for token in _BRACE.finditer(text):
        if token[0] == "{":
            opened.append(token.start())
        elif token[0] == "}" and opened:
            closing[opened.pop()] = token.start()
    return closing


def _after_hashes(text: str) -> str | None:
    """Return GSM8K's `#### 18`; a heading such as `#### 2. Speed` is none."""
    lines = [line.strip().rstrip(".") for line in _GSM8K.findall(text)]
    numbers = [line for line in lines if _is_quantity(line)]
    return numbers[-1] if numbers else None


def _after_phrase(text: str) -> str | None:
    """Return what follows the last "the answer is" or "Answer:", if it is short and clear."""
    text = text[-_TAIL:]
    lowered = text.lower()
    end = -1
    if any(word in lowered for word in _MARKS):  # by far most replies end here
        for phrase in _PHRASE.finditer(text):
            end = phrase.end()
    if end < 0:
        return None
    rest = text[end : end + 1200].lstrip()
    money, maths = _MONEY.match(rest), _MATHS.match(rest)
    if money:
        return money[1].rstrip(",")
    if maths:
        return next(group for group in maths.groups() if group).strip() or None
    letter = _LETTER.match(rest.partition("\n")[0])
    if letter:
        return letter[1]
    return _phrase_value(_END.split(rest, maxsplit=1)[0].strip(" \t*_`:,"))


def _phrase_value(phrase: str) -> str | None:
    if not _SUBSTANCE.search(phrase) or _DENIAL.match(phrase):
        return None
    number = _LEADING_NUMBER.match(phrase)
    if number and not _CALCULATION.search(phrase, number.end()) and not _is_quantity(phrase):
        return number[0].rstrip(",")
    return phrase if len(phrase) <= 60 and len(phrase.split()) <= 8 else None


def _is_quantity(text: str) -> bool:
    plain = tidy(text)
    return parse_number(plain) is not None or strip_unit(plain)[1] is not None


def _after_thinking(content: str) -> str:
    """Drop thinking that no reasoning parser set apart; unfinished thinking has no answer yet."""
    visible = content.rpartition("</think>")[2]
    return "" if "<think>" in visible else visible


def _certain(content: str) -> str | None:
    """Return the answer of a reply that was cut off, where going on could not have changed it."""
    if _BOX.search(content):
        return None if _OPEN_BOX.search(content) else _boxed(content)
    return extract(content[: content.rfind("\n") + 1])


def _whole(content: str) -> str | None:
    """Return a short reply that marks nothing: it is the answer."""
    reply = content.strip()
    if len(reply) > _SHORT_REPLY or "\n" in reply or _BOX.search(reply) or _PHRASE.search(reply):
        return None
    return reply.rstrip(".") or None
