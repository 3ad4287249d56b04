"""The replay upstream's memory: which samples answer a question, and how many were given.

Samples are given in their recorded order and never twice. Two problems that ask the same words are
one question, with the samples of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.pools import Pool, Sample
from verifiers.errors import BadRequest, UnknownModel

PROBE = "Count from 1 to 9."
"""The question by which our HTTP engine finds out what its upstream can do."""
READINESS = "Hi"
"""What our server's /readyz asks its engines."""


class UnknownQuestion(BadRequest, LookupError):
    """No recorded question is in the request."""

    status = 404
    code = "unknown_question"


class PoolExhausted(BadRequest, LookupError):
    """More samples are asked for than are left."""

    code = "pool_exhausted"


@dataclass(slots=True)
class Deck:
    """The samples of one question, and how many of them were given."""

    samples: list[Sample] = field(default_factory=list)
    given: int = 0

    def deal(self, n: int) -> list[Sample]:
        """Give the next n samples, or none. Raises PoolExhausted."""
        left = len(self.samples) - self.given
        if n > left:
            raise PoolExhausted(
                f"{n} samples asked for, {left} of {len(self.samples)} left; POST /reset renews",
                param="n",
            )
        self.given += n
        return self.samples[self.given - n : self.given]


class Decks:
    """All questions of one model's pools."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._decks: dict[str, Deck] = {}
        for pool in pools:
            for problem, samples in ((each.problem, each.samples) for each in pool.recorded):
                self._decks.setdefault(problem.question, Deck()).samples.extend(samples)
        self._logprobs = all(row.logprobs for pool in pools for row in pool.rows)
        self._probes = 0

    @property
    def given(self) -> int:
        """Samples given since the last reset."""
        return sum(deck.given for deck in self._decks.values())

    def deal(self, texts: Sequence[str], n: int) -> list[Sample]:
        """Give the next n samples of the question that one of the texts is, or contains.

        Raises UnknownQuestion, PoolExhausted.
        """
        if PROBE in texts or READINESS in texts:
            return [self._probe() for _ in range(n)]
        exact = next((text for text in texts if text in self._decks), None)
        contained = (
            question for question in self._decks if any(question in text for text in texts)
        )
        question = max(contained, key=len, default=None) if exact is None else exact
        if question is None:
            asked = texts[0] if texts else ""
            raise UnknownQuestion(f"no recorded question is in {asked[:300]!r}", param="messages")
        return self._decks[question].deal(n)

    def reset(self) -> None:
        """Begin every question anew."""
        for deck in self._decks.values():
            deck.given = 0

    def _probe(self) -> Sample:
        """Count on from wherever the last probe began: a pool has no seeds, so no two are equal."""
        self._probes += 1
        words = [f"{self._probes + step} " for step in range(9)]
        sure = (-0.5,) * 9 if self._logprobs else ()
        lengths = tuple(map(len, words))
        return Sample("probe", self._probes, "".join(words), "stop", 9, 9, lengths, sure, sure)


def decks_by_model(pools: Sequence[Pool]) -> dict[str, Decks]:
    """Sort pools by the model that was recorded."""
    models = dict.fromkeys(pool.manifest.model for pool in pools)
    return {name: Decks([each for each in pools if each.manifest.model == name]) for name in models}


def decks_of(decks: dict[str, Decks], model: str) -> Decks:
    """Find a model's questions; a single model goes by any name. Raises UnknownModel."""
    if len(decks) == 1:
        return next(iter(decks.values()))
    if model not in decks:
        raise UnknownModel(f"no pool of model {model!r}: {', '.join(decks)}", param="model")
    return decks[model]
