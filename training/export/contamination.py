"""Which questions are in a test that somebody will be measured by."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from loadtests.pools import MANIFEST, read_manifest
from training.data import DataError

_WORD = re.compile(r"\w+")
_QUESTIONS = ("question", "prompt", "messages", "problem")
"""Fields of a test file that may hold its question, the first that does."""


class Contamination:
    """Recognises questions that share `size` words in a row with a test's, or all of their words.

    13 words are GPT-3's measure (2005.14165, appendix C); words are compared in lower case,
    without punctuation. With `size` 0, and for questions that are shorter, only all words count:
    what suits tests whose questions are made by one template.
    """

    def __init__(self, questions: Iterable[str], size: int = 13) -> None:
        self._size = size
        self._whole: set[bytes] = set()
        self._grams: set[bytes] = set()
        self.count = 0
        for question in questions:
            words = _words(question)
            self.count += 1
            self._whole.add(_digest(words))
            self._grams.update(self._parts(words))

    def __contains__(self, question: str) -> bool:
        words = _words(question)
        if _digest(words) in self._whole:
            return True
        return any(part in self._grams for part in self._parts(words))

    def _parts(self, words: Sequence[str]) -> Iterator[bytes]:
        if self._size:
            for start in range(len(words) - self._size + 1):
                yield _digest(words[start : start + self._size])


def read_questions(path: Path) -> Iterator[str]:
    """Yield the questions of a test: JSONL, compressed or not, or a pool's directory.

    A line has its question in `question`, `prompt`, `messages` or `problem`.

    Raises:
        DataError: the file is missing, or a line has none of them; it is named.
    """
    if (path / MANIFEST).exists():
        yield from (problem.question for problem in read_manifest(path).problems)
        return
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(text.split(b"\n"), 1):
        if line.strip():
            yield _question(line, f"{path}:{number}")


def _question(line: bytes, place: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error
    found = next((row[name] for name in _QUESTIONS if isinstance(row, dict) and name in row), None)
    if isinstance(found, list):
        found = _last_user(found)
    if not isinstance(found, str):
        raise DataError(f"{place}: has none of {', '.join(_QUESTIONS)}")
    return found


def _last_user(messages: Sequence[Any]) -> Any:
    users = [each for each in messages if isinstance(each, dict) and each.get("role") == "user"]
    return users[-1].get("content") if users else None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _digest(words: Sequence[str]) -> bytes:
    return blake2b(" ".join(words).encode(errors="surrogatepass"), digest_size=8).digest()
