"""Label steps while exporting: recorded replies, finished from their steps by a model."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from server.models import Progress as DownloadProgress
from server.models import resolve
from training.data import DataError
from training.export.questions import Question, Sample
from training.labels import METHODS, Completer, Reply, label_steps
from training.rows import Prompted, Row
from verifiers.steps import step_ends
from verifiers.types import Continuation

if TYPE_CHECKING:
    from training.rollouts.base import Rollouts

Completing: TypeAlias = Callable[[Sequence[Prompted]], AbstractContextManager[Completer]]
"""Gets a completer of replies to these rows ready, and ends it after."""


@dataclass(frozen=True, slots=True)
class Labelling:
    """How steps are labelled."""

    method: str
    """Of `training.labels.METHODS`."""
    n: int = 8
    """Completions from a step."""


@dataclass(frozen=True, slots=True)
class Completions:
    """Who completes replies, and who judges them."""

    model: str
    """A name of the catalogue or a directory; with `url`, the server's name of it."""
    url: str | None = None
    """Of a server that completes; None: vLLM in this process."""
    judge: str = "math"
    """The verifier."""
    max_tokens: int = 512
    temperature: float = 1.0
    seed: int = 0


def replies_of(
    questions: Sequence[Question], separator: str, per_problem: int | None, dropped: Counter[str]
) -> list[Reply]:
    """Return the questions' replies cut into steps, of each question the first ones.

    A reply of one step, and one that nothing can be said about, is left out and counted.
    """
    replies: list[Reply] = []
    for question in questions:
        if question.reference is None and not question.fields:
            dropped["questions: no reference"] += 1
            continue
        cut = [_reply(question, each, separator) for each in question.unique]
        several = [each for each in cut if len(each.steps) > 1]
        if len(several) < len(cut):
            dropped["replies: a single step"] += len(cut) - len(several)
        replies += several[:per_problem]
    return replies


def labelled_rows(
    replies: Sequence[Reply],
    labelling: Labelling,
    completing: Completing,
    advance: Callable[[], object],
) -> list[Row]:
    """Label every reply's steps."""
    rows: list[Row] = []
    method = METHODS[labelling.method]
    with completing([each.row for each in replies]) as complete:
        for row, _ in label_steps(replies, method, complete, labelling.n):
            rows.append(row)
            advance()
    return rows


@contextmanager
def completing_with(
    completions: Completions, progress: DownloadProgress, rows: Sequence[Prompted]
) -> Iterator[Completer]:
    """Start the model and the judge that complete these rows, and end them after.

    Raises:
        DataError: the server cannot go on with a reply.
        BadRequest: a row lacks what the judge needs, such as a reference.
        ModelError, EngineError, VerifierError, ValueError: one of them cannot be had.
    """
    # Imported late: a model brings its engine.
    from training.completions import RolloutCompleter
    from training.rewards import Rewards, RewardSettings
    from training.rollouts.base import policy_sampling

    sampling = policy_sampling(
        completions.max_tokens, completions.temperature, seed=completions.seed, logprobs=None
    )
    rewards = [RewardSettings(verifier=completions.judge)]
    with _rollouts(completions, progress) as rollouts, Rewards(rewards, rollouts) as judge:
        if rollouts.engine.capabilities.continuation is Continuation.NONE:
            raise DataError(f"{completions.url}: cannot go on with a reply")
        judge.check(rows)
        yield RolloutCompleter(rollouts, judge, sampling)


def _rollouts(completions: Completions, progress: DownloadProgress) -> Rollouts:
    from training.rollouts.base import RolloutSettings

    if completions.url is not None:
        from training.rollouts.http import open_http

        return open_http(
            RolloutSettings(backend="http", url=completions.url, model=completions.model)
        )
    from training.rollouts.engine import open_vllm

    return open_vllm(RolloutSettings(), resolve(completions.model, progress).path)


def _reply(question: Question, sample: Sample, separator: str) -> Reply:
    ends = step_ends(sample.text, separator)
    row = Prompted(
        prompt=question.prompt,
        problem=question.problem,
        reference=question.reference,
        fields=dict(question.fields),
        source=dict(sample.source),
    )
    cuts = itertools.pairwise((0, *ends))
    return Reply(row, tuple(sample.text[start:end] for start, end in cuts), sample.right)
