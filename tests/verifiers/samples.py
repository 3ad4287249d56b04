"""What the contract runs each verifier on: a configuration, fields, candidates that it can score.

A verifier whose configuration or fields have no defaults needs a row; so do further settings of a
verifier that work in another way, under names of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from server.engines.scripts import split
from tests.verifiers.oracle import Says
from verifiers.types import Candidate, FinishReason, JSONObject, Prompt, TokenLogprob

SCORER = "{scorer}"
"""In a configuration: the root of the scoring server that the tests run."""
VALUE_HEAD = "{value head}"
"""In a configuration: the directory of a tiny model with a value at each token."""

PROMPT = Prompt(({"role": "user", "content": "What is 6 times 7? Box your answer."},))
TEXTS = (
    "Six sevens are 7 + 7 + 7 + 7 + 7 + 7.\n\nThat is 42.\n\n\\boxed{42}",
    "6 * 7 = 36.\n\n\\boxed{36}",
    "I know it.\n\n\\boxed{42}",
    "Half of 84:\n\n84 / 2 = 42.\n\nSo it is 42. \\boxed{42.0}",
    "6 + 7 = 13.\n\n\\boxed{13}",
)


def candidate(
    index: int, text: str, finish_reason: FinishReason | None = "stop", *, rated: bool = True
) -> Candidate:
    """Make a reply as an engine would have given it; `rated`: with log-probabilities."""
    pieces = split(text)
    ids = tuple(1 + hash_of(piece) for piece in pieces)
    entries = tuple(
        TokenLogprob(
            piece,
            -0.1 * (1 + hash_of(piece) % 9),
            ((piece, math.log(0.6)), ("x", math.log(0.3))),
            (token_id, 0),
        )
        for piece, token_id in zip(pieces, ids, strict=True)
    )
    return Candidate(
        f"0.0.{index}",
        text,
        ids,
        len(pieces),
        entries if rated else (),
        finish_reason=finish_reason,
    )


def hash_of(text: str) -> int:
    """Number a text, the same in every process."""
    return sum(place * byte for place, byte in enumerate(text.encode(), 1)) % 9973


def many(*texts: str) -> tuple[Candidate, ...]:
    """Make a finished reply of each text."""
    return tuple(candidate(index, text) for index, text in enumerate(texts))


def prose(_prompt: str) -> str:
    """Say something that no label is read from."""
    return "I looked at every step of it."


UNFINISHED = candidate(9, "It is cer", None)
UNRATED = candidate(9, "\\boxed{42}", rated=False)
PROSE = candidate(9, "I cannot say what the answer to this might be, however long I think")


@dataclass(frozen=True)
class Sample:
    """How the contract asks one verifier."""

    configuration: Mapping[str, Any] = field(default_factory=dict)
    """Without `type`, which is the row's name up to a colon."""
    fields: JSONObject = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = field(default_factory=lambda: many(*TEXTS))
    lacking: Candidate | None = None
    """A reply without what is needed: an abstention. None: every reply has it."""
    prompt: Prompt = PROMPT
    probabilities: bool = True
    """Scores are in [0, 1]."""
    says: Says = prose
    """What engines reply where more than a token is asked for."""

    def filled(self, places: Mapping[str, str]) -> Sample:
        """Fill in where the things are that configurations name."""
        filled = json.dumps(self.configuration)
        for name, place in places.items():
            filled = filled.replace(name, place)
        return replace(self, configuration=json.loads(filled))


OBJECTS = ('{"a": 1}', '```json\n{"a": 2}\n```', '{"a": "x"}', "no", "[]")
FUNCTIONS = (
    "def twice(x):\n    return x * x",
    "```python\ndef twice(x):\n    return 2 * x\n```",
    "```python\ndef twice(x):\n    return x\n```",
)
REFERENCE = {"reference": "42"}

SAMPLES: dict[str, Sample] = {
    "agreement": Sample(lacking=PROSE),
    "ensemble": Sample(
        {
            "members": [
                {"verifier": {"type": "generative"}, "weight": 2.0},
                {"verifier": {"type": "generative", "engine": "other"}},
            ]
        }
    ),
    "ensemble:compares": Sample(
        {"members": [{"verifier": {"type": "pairwise_judge"}}, {"verifier": {"type": "judge"}}]}
    ),
    "ensemble:fields": Sample(
        {"members": [{"verifier": {"type": "json_schema"}}, {"verifier": {"type": "regex"}}]},
        fields={"schema": {"required": ["a"]}, "pattern": "[0-9]"},
        candidates=many(*OBJECTS),
        lacking=UNFINISHED,
    ),
    "ensemble:rules": Sample(
        {"members": [{"verifier": {"type": "logprob"}}, {"verifier": {"type": "math"}}]},
        fields=REFERENCE,
        lacking=candidate(9, "I cannot say what the answer to this might be", rated=False),
    ),
    "exact": Sample(fields=REFERENCE, lacking=PROSE),
    "generative:rationale": Sample({"rationale_tokens": 8, "votes": 3}),
    "generative:elsewhere": Sample({"engine": "other"}),
    "implicit_process_reward": Sample({"reference_engine": "other"}, lacking=candidate(9, "")),
    "json_schema": Sample(
        fields={"schema": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}},
        candidates=many(*OBJECTS),
        lacking=UNFINISHED,
    ),
    "judge:rationale": Sample(
        {"rationale_tokens": 8, "repeats": 2, "criteria": ["Is it right?", "Is it short?"]}
    ),
    "judge:elsewhere": Sample({"engine": "other"}),
    "listwise_judge:heats": Sample(
        {"heat": 5, "orders": 3},
        candidates=many(*(f"\\boxed{{{number}}}" for number in range(12))),
    ),
    "logprob": Sample(lacking=UNRATED),
    "logprob:self_certainty": Sample(
        {"measure": "self_certainty"}, lacking=UNRATED, probabilities=False
    ),
    "logprob:tail": Sample({"measure": "tail", "window": 3}, lacking=UNRATED),
    "logprob:lowest_window": Sample({"measure": "lowest_window", "window": 3}, lacking=UNRATED),
    "math": Sample(fields=REFERENCE, lacking=PROSE),
    "numeric": Sample(fields=REFERENCE, lacking=PROSE),
    "outcome_reward": Sample({"backend": "http", "url": SCORER}),
    "process_reward": Sample(lacking=candidate(9, "")),
    "process_reward:marks": Sample(
        {"mark": " ки", "keep_marks": True, "engine": "other", "aggregation": "min"},
        lacking=candidate(9, ""),
    ),
    "python_tests": Sample(
        fields={"tests": ["assert twice(2) == 4", "assert twice(3) == 6"], "entry_point": "twice"},
        candidates=many(*FUNCTIONS),
        lacking=PROSE,
    ),
    "regex": Sample(fields={"pattern": r"\\boxed\{42"}, lacking=UNFINISHED),
    "remote": Sample({"url": f"{SCORER}/v1/verify"}, lacking=candidate(9, "")),
    "remote:rerank": Sample({"url": f"{SCORER}/v1/rerank", "shape": "rerank", "batch_size": 2}),
    "remote:score": Sample({"url": f"{SCORER}/v1/score", "shape": "score"}),
    # One at a time: padding moves the last digits.
    "value_head": Sample({"model": VALUE_HEAD, "batch_size": 1}, lacking=candidate(9, "")),
}
