"""Which replies are right: by their task, a reference, a verifier's scores, or the majority."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.export.questions import Question, Sample
from verifiers.answers import answer_key, answer_of, canonical_json, extract, structured
from verifiers.types import Equivalence
from verifiers.votes import gather_votes


@dataclass(frozen=True, slots=True)
class Evidence:
    """What counts, beside verdicts of the task and references, which always come first."""

    verifier: str | None = None
    """Whose recorded scores count."""
    min_score: float = 0.5
    """From here on a reply is right, below it is wrong."""
    min_agreement: float | None = None
    """From this share on the majority's answer is taken for the right one; None: never."""


async def judged(question: Question, evidence: Evidence, equivalence: Equivalence) -> Question:
    """Return the question with a verdict on every reply that something tells of.

    The first that tells: the task's verdict, the reference, the score, the majority. `by` in a
    sample's source says which it was. A reply without an answer is wrong by a reference, and by a
    majority unknown.
    """
    votes = await gather_votes(
        [each.candidate for each in question.samples], question.asked, equivalence
    )
    agreement = votes.agreement
    majority = None if agreement is None or votes.answer is None else (votes.answer, agreement)
    members = {each.id for each in votes.classes[0].members} if votes.classes else set()
    trusted = evidence.min_agreement is not None and (agreement or 0.0) >= evidence.min_agreement
    silent = {each.id for each in votes.abstained}
    equal = await _equal_reference(question, equivalence)

    def verdict(place: int, sample: Sample) -> Sample:
        if sample.right is not None:
            return _with(sample, sample.right, "task")
        if equal:
            return _with(sample, equal[place], "reference")
        if sample.score is not None and evidence.verifier is not None:
            return _with(sample, sample.score >= evidence.min_score, "score")
        if trusted and sample.candidate.id not in silent:
            return _with(sample, sample.candidate.id in members, "majority")
        return sample

    samples = tuple(verdict(place, each) for place, each in enumerate(question.samples))
    return replace(question, samples=samples, majority=majority)


async def _equal_reference(question: Question, equivalence: Equivalence) -> Sequence[bool]:
    """Compare each reply with the reference, as the verifier `math` does; empty: there is none."""
    if question.reference is None or all(each.right is not None for each in question.samples):
        return ()
    prompt, reference = question.asked, question.reference
    if structured(prompt):
        truth = canonical_json(reference) or reference
    else:
        truth = answer_key(extract(reference) or reference, prompt)
    answers = [answer_of(each.candidate, prompt) for each in question.samples]
    keys = [answer_key(answer, prompt) if answer else "" for answer in answers]
    verdicts = iter(await equivalence.equal([(truth, key) for key in keys if key]))
    return [bool(key) and next(verdicts) for key in keys]


def _with(sample: Sample, right: bool, by: str) -> Sample:
    return replace(sample, right=right, source={**sample.source, "by": by})
