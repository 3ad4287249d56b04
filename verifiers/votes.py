"""Voting: candidates with equal answers form a class, the heaviest class wins.

Nothing depends on the order in which candidates arrive: every tie has a rule.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from verifiers.answers import answer_key, answer_of, structured
from verifiers.types import Candidate, Equivalence, Prompt


@dataclass(frozen=True, slots=True)
class AnswerClass:
    """Candidates whose answers mean the same, best first."""

    answer: str
    """As most of its members write it."""
    weight: float
    members: tuple[Candidate, ...]

    @property
    def representative(self) -> Candidate:
        """The member to show: highest score, then highest mean log-probability."""
        return self.members[0]


@dataclass(frozen=True, slots=True)
class Votes:
    """The outcome of a vote: classes and abstentions, best first."""

    classes: tuple[AnswerClass, ...]
    abstained: tuple[Candidate, ...]

    @property
    def ranked(self) -> list[Candidate]:
        """Every candidate: one of each class, then the classes' others, then abstentions."""
        shown = [answer_class.representative for answer_class in self.classes]
        others = [member for answer_class in self.classes for member in answer_class.members[1:]]
        return [*shown, *others, *self.abstained]

    @property
    def answer(self) -> str | None:
        """The winning answer; None if all abstained."""
        return self.classes[0].answer if self.classes else None

    @property
    def agreement(self) -> float | None:
        """The winner's share of the weight that voted, 0 to 1; None if none did."""
        total = math.fsum(answer_class.weight for answer_class in self.classes)
        return self.classes[0].weight / total if total > 0 else None

    @property
    def abstentions(self) -> int:
        """The number of candidates without an answer."""
        return len(self.abstained)


@dataclass(frozen=True, slots=True)
class _Ballot:
    candidate: Candidate
    answer: str
    key: str
    weight: float


async def gather_votes(
    candidates: Sequence[Candidate],
    prompt: Prompt,
    equivalence: Equivalence,
    weights: Mapping[str, float] | None = None,
) -> Votes:
    """Group candidates by what they answer, and rank the groups.

    Args:
        candidates: the voters.
        prompt: what they reply to; its `response_format` says how answers compare.
        equivalence: tells whether answers with different keys still mean the same.
        weights: for every candidate by id, finite and not negative; None: 1 each.
    """
    groups: dict[str, list[_Ballot]] = defaultdict(list)
    abstained = []
    for candidate in candidates:
        answer = answer_of(candidate, prompt)
        key = answer_key(answer, prompt) if answer else ""
        if answer and key:
            weight = 1.0 if weights is None else weights[candidate.id]
            groups[key].append(_Ballot(candidate, answer, key, weight))
        else:
            abstained.append(candidate)
    merged = list(groups.values()) if structured(prompt) else await _merge(groups, equivalence)
    classes = [_answer_class(ballots) for ballots in sorted(merged, key=_class_order)]
    return Votes(tuple(classes), tuple(sorted(abstained, key=_abstainer_order)))


async def _merge(
    groups: Mapping[str, list[_Ballot]], equivalence: Equivalence
) -> list[list[_Ballot]]:
    """Join the groups whose keys mean the same, transitively: one question for all pairs."""
    keys = sorted(groups, key=lambda key: (-_weight(groups[key]), key))
    pairs = list(combinations(keys, 2))
    parents = {key: key for key in keys}

    def root(key: str) -> str:
        while parents[key] != key:
            key = parents[key]
        return key

    for (left, right), equal in zip(pairs, await equivalence.equal(pairs), strict=True):
        if equal:
            parents[root(right)] = root(left)
    merged: dict[str, list[_Ballot]] = defaultdict(list)
    for key in keys:
        merged[root(key)] += groups[key]
    return list(merged.values())


def _answer_class(ballots: Sequence[_Ballot]) -> AnswerClass:
    members = sorted((ballot.candidate for ballot in ballots), key=_member_order)
    counts = Counter(ballot.answer for ballot in ballots)
    answer = min(counts, key=lambda text: (-counts[text], len(text), text))
    return AnswerClass(answer, _weight(ballots), tuple(members))


def _class_order(ballots: Sequence[_Ballot]) -> tuple[float, float, int, float, str]:
    best = min((ballot.candidate for ballot in ballots), key=_member_order)
    key = min(ballot.key for ballot in ballots)
    return -_weight(ballots), -best.score, -len(ballots), -best.mean_logprob, key


def _member_order(candidate: Candidate) -> tuple[float, float, str, str]:
    return -candidate.score, -candidate.mean_logprob, candidate.text, candidate.id


def _abstainer_order(candidate: Candidate) -> tuple[bool, float, str, str]:
    return not candidate.done, -candidate.mean_logprob, candidate.text, candidate.id


def _weight(ballots: Iterable[_Ballot]) -> float:
    """Add up exactly, so that the order of the ballots does not matter."""
    return math.fsum(ballot.weight for ballot in ballots)
