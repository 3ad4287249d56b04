"""A reply cut into steps, as text and as tokens.

A reply that grows keeps the ends that its steps had, so that only new steps need a verdict.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from verifiers.types import Candidate, Reply

BLANK_LINE = "\n\n"
"""What ends a step, unless a verifier is told otherwise: as in step search."""


def step_ends(text: str, separator: str, most: int | None = None) -> list[int]:
    """Return the place after each step, its separator included.

    A blank piece belongs to the step that follows, and to none at the end of the reply. What
    exceeds `most` steps belongs to the last one.
    """
    places = [found.end() for found in re.finditer(re.escape(separator), text)]
    ends: list[int] = []
    for end in (*places, len(text)):
        piece = text[ends[-1] if ends else 0 : end]
        if piece.removesuffix(separator).strip():
            ends.append(end)
    if most is not None and len(ends) > most:
        return [*ends[: most - 1], ends[-1]]
    return ends


def token_ends(tokens: Sequence[str], text: str, ends: Sequence[int]) -> list[int]:
    """Return how many tokens it takes to cover the text up to each place.

    A token that spans a place is taken whole. Empty where the tokens are not those of the text.
    """
    if not "".join(tokens).startswith(text):
        return []
    reached = list(accumulate(map(len, tokens)))
    return [bisect_left(reached, end) + 1 for end in ends]


def prefixes(candidate: Candidate, ends: Sequence[int]) -> list[Reply]:
    """Return the reply up to each place, by its token ids where the texts of these are known."""
    tokens = [entry.token for entry in candidate.logprobs]
    known = len(tokens) == len(candidate.token_ids)
    cuts = token_ends(tokens, candidate.text, ends) if known else []
    if not cuts:
        return [Reply(candidate.text[:end]) for end in ends]
    return [Reply("".join(tokens[:cut]), candidate.token_ids[:cut]) for cut in cuts]
