"""What is exported from: questions with the replies that were recorded of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from training.data import DataError, question_id, squeeze
from training.rows import Message, Prompted
from verifiers.types import UNSCORED, Candidate, JSONObject, Prompt


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply, and what is known of it."""

    candidate: Candidate
    source: JSONObject
    """Where it came from: its trace and id there, or its pool and number; model, verifier, score"""
    right: bool | None = None
    """None: nothing tells."""
    ends: tuple[int, ...] = ()
    """The place after each step of the search that made it, in characters; of others empty."""

    @property
    def text(self) -> str:
        """The reply, with its reasoning."""
        return self.candidate.text

    @property
    def whole(self) -> bool:
        """Whether it ended by itself: others are nothing to imitate."""
        return self.candidate.finish_reason == "stop"

    @property
    def score(self) -> float | None:
        """What its verifier said."""
        return None if self.candidate.score == UNSCORED else self.candidate.score

    @property
    def worth(self) -> tuple[float, float, str]:
        """Sort key, the best first: by score, then log-probability, then text."""
        score = 0.0 if self.score is None else self.score
        return -score, -self.candidate.mean_logprob, self.text


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with its replies."""

    prompt: tuple[Message, ...]
    samples: tuple[Sample, ...]
    reference: str | None = None
    fields: JSONObject = field(default_factory=dict)
    """What else verifiers are told, such as `tests`."""
    source: JSONObject = field(default_factory=dict)
    response_format: JSONObject | None = None
    majority: tuple[str, float] | None = None
    """The answer of most replies, and its share of those that answer."""

    @property
    def problem(self) -> str:
        """What names it."""
        return question_id(self.prompt)

    @property
    def asked(self) -> Prompt:
        """The prompt as verifiers see it."""
        messages = tuple(each.model_dump() for each in self.prompt)
        return Prompt(messages, response_format=self.response_format)

    @property
    def unique(self) -> list[Sample]:
        """The samples without those that say the same but for white space, the first kept."""
        return list({squeeze(each.text): each for each in reversed(self.samples)}.values())[::-1]


def plain_messages(messages: Iterable[JSONObject]) -> tuple[Message, ...]:
    """Return OpenAI messages as rows hold them.

    Raises:
        DataError: they cannot be rows; the message says why in two words, to count by.
    """
    made = []
    for each in messages:
        if each.get("tool_calls"):
            raise DataError("tool calls")
        made.append({"role": each["role"], "content": _text(each.get("content") or "")})
    try:
        return Prompted.model_validate({"prompt": made}).prompt
    except ValidationError as error:
        raise DataError("empty or misplaced messages") from error


def merged(questions: Iterable[Question]) -> list[Question]:
    """Join questions with the same prompt, in the order of their first; references are shared."""
    groups: dict[str, list[Question]] = {}
    for each in questions:
        key = json.dumps([each.asked.messages, each.response_format], sort_keys=True)
        groups.setdefault(key, []).append(each)
    return [_join(group) for group in groups.values()]


def _join(group: Sequence[Question]) -> Question:
    references = [each.reference for each in group if each.reference is not None]
    first = group[0]
    return Question(
        first.prompt,
        tuple(sample for each in group for sample in each.samples),
        references[0] if references else None,
        {name: value for each in reversed(group) for name, value in each.fields.items()},
        first.source,
        first.response_format,
    )


def _text(content: str | Sequence[JSONObject]) -> str:
    if isinstance(content, str):
        return content
    if any(part["type"] != "text" for part in content):
        raise DataError("images or other parts")
    return "\n".join(part["text"] for part in content)
