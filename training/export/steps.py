"""Step labels that were recorded without anybody asking for them.

A process verifier's scores of a reply are labels of its steps. A step search goes on from a step
several times: the share of its endings that are right is the step's label, as in Math-Shepherd
(2312.08935), but with the completions that the search happened to make.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from statistics import fmean

from training.export.questions import Question, Sample
from training.rows import Row, Stepped
from verifiers.steps import step_ends
from verifiers.types import JSONObject


def stepped(question: Question, separator: str, *, hard: bool = False) -> Iterator[Row]:
    """Yield a row for each reply whose steps somebody scored, or that a search made.

    Args:
        question: with its verdicts.
        separator: what ended a step for the verifier; replies of another cut are left out.
        hard: a searched step is right if any of its endings was, not by their share.
    """
    for each in question.unique:
        if not each.candidate.steps and each.ends:
            yield from _searched(question, each, hard)
        elif len(ends := step_ends(each.text, separator)) == len(each.candidate.steps) > 0:
            labels = [min(1.0, max(0.0, score)) for score in each.candidate.steps]
            yield _row(question, each, _cut(each.text, ends), labels, {"steps": "verifier"})


def _searched(question: Question, sample: Sample, hard: bool) -> Iterator[Row]:
    endings = [
        each
        for each in question.samples
        if each.right is not None and each.source.get("trace") == sample.source.get("trace")
    ]
    if sample.right is None:
        return
    through = [
        [float(bool(each.right)) for each in endings if each.text.startswith(sample.text[:end])]
        for end in sample.ends
    ]
    labels = [max(values) if hard else fmean(values) for values in through]
    told = {"steps": "search", "completions": [len(values) for values in through]}
    yield _row(question, sample, _cut(sample.text, sample.ends), labels, told)


def _row(
    question: Question,
    sample: Sample,
    steps: Sequence[str],
    labels: Sequence[float],
    told: JSONObject,
) -> Stepped:
    return Stepped(
        prompt=question.prompt,
        problem=question.problem,
        reference=question.reference,
        fields=dict(question.fields),
        steps=tuple(steps),
        labels=tuple(labels),
        source={**sample.source, **told},
    )


def _cut(text: str, ends: Sequence[int]) -> list[str]:
    return [text[start:end] for start, end in itertools.pairwise((0, *ends))]
