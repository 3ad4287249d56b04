"""The process that compares: it may hang or grow, so its parent can kill it at any moment.

It reads one JSON list a line from stdin, and answers each with one line, `true`, `false` or `null`
(no verdict within the time): `["equal", a, b, seconds]` compares two canonical answers, `["match",
pattern, text, seconds]` matches a regular expression, `["conform", schema, text, seconds]` checks
JSON against a JSON schema. The first line it writes is `true`: ready.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any, TextIO

Comparison = Callable[[str, str], bool]

_OF_NO_SCHEMA = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What jsonschema raises where a part of a schema that a reference leads to is none."""


class OutOfTime(BaseException):
    """The comparison took too long. Not an Exception: the libraries catch all of those."""


def main() -> None:
    """Serve comparisons until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _raise_out_of_time)
    _limit(resource.RLIMIT_AS, int(sys.argv[1]) * 2**20)
    _limit(resource.RLIMIT_CORE, 0)
    logging.disable(logging.CRITICAL)
    replies = _claim_stdout()
    comparisons: dict[str, Comparison] = {
        "equal": _symbolic_equality(),
        "match": _matches,
        "conform": _conformity(),
    }
    print("true", file=replies, flush=True)
    for line in sys.stdin:
        kind, left, right, seconds = json.loads(line)
        print(
            json.dumps(_decide(comparisons[kind], left, right, seconds)), file=replies, flush=True
        )


def _decide(comparison: Comparison, left: str, right: str, seconds: float) -> bool | None:
    try:
        with _time_limit(seconds):
            return comparison(left, right)
    except OutOfTime:
        return None
    except (MemoryError, RecursionError):
        return False


def _symbolic_equality() -> Comparison:
    """Return math-verify's comparison, asked both ways as it is not symmetric.

    Only its LaTeX parser is used: its parser of plain expressions is sympy's, which evaluates.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    target = [LatexExtractionConfig(boxed_match_priority=0)]

    @lru_cache(maxsize=256)
    def parsed(answer: str) -> tuple[object, ...]:
        boxed = f"\\boxed{{{answer}}}"
        return tuple(parse(boxed, target, fallback_mode="no_fallback", parsing_timeout=None))

    def equal(left: str, right: str) -> bool:
        gold, other = list(parsed(left)), list(parsed(right))
        if not gold or not other:
            return False
        return bool(
            verify(gold, other, timeout_seconds=None) or verify(other, gold, timeout_seconds=None)
        )

    return equal


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


def _conformity() -> Comparison:
    """Return jsonschema's check, with no other documents at hand than the dialects themselves."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import UnknownType
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable

    @lru_cache(maxsize=16)
    def validator(schema: str) -> Any:
        document = json.loads(schema)
        return validator_for(document, default=Draft202012Validator)(document, registry=REGISTRY)

    def conforms(schema: str, text: str) -> bool:
        try:
            return bool(validator(schema).is_valid(json.loads(text)))
        except (UnknownType, Unresolvable, *_OF_NO_SCHEMA):
            return False

    return conforms


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt Python code by an alarm; a stuck C call dies by its CPU time, parent or not."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, math.ceil(spent.ru_utime + spent.ru_stime + seconds) + 2)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _raise_out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise OutOfTime


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (soft, hard))


def _claim_stdout() -> TextIO:
    """Keep stdout for replies: what libraries print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


if __name__ == "__main__":
    main()
