"""Read recorded pools: a question for each problem, whose replies the task has judged."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from loadtests.pools import MANIFEST, Manifest, read_manifest, read_rows
from loadtests.pools import Sample as Row
from training.data import DataError
from training.export.questions import Question, Sample, plain_messages
from verifiers.types import Candidate, TokenLogprob


class PoolDirectory:
    """A pool on disk.

    Raises:
        DataError: it is none.
    """

    def __init__(self, path: Path) -> None:
        if not (path / MANIFEST).exists():
            raise DataError(f"{path}: not a pool: it has no {MANIFEST}")
        self.path = path
        self.manifest: Manifest = read_manifest(path)
        self.count = len(self.manifest.problems) * self.manifest.samples

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the manifest and of each shard."""
        files = [self.path / MANIFEST, *sorted(self.path.glob("*.jsonl.gz"))]
        return {str(each): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}

    def questions(self, advance: Callable[[], object], dropped: Counter[str]) -> Iterator[Question]:
        """Yield each problem that has samples, in the manifest's order.

        Args:
            advance: called after each sample.
            dropped: counts samples that are left out, by reason.
        """
        samples: dict[str, dict[int, Sample]] = defaultdict(dict)
        for row in read_rows(self.path):
            advance()
            if not row.text.strip():
                dropped["replies: unfinished or empty"] += 1
            else:
                samples[row.problem].setdefault(row.sample, self._sample(row))
        for problem in self.manifest.problems:
            if problem.id in samples:
                yield Question(
                    plain_messages(problem.messages),
                    tuple(samples[problem.id][n] for n in sorted(samples[problem.id])),
                    problem.reference or None,
                    problem.fields,
                    {"pool": self.path.name, "problem": problem.id},
                )

    def _sample(self, row: Row) -> Sample:
        candidate = Candidate(
            f"{self.path.name}/{row.problem}.{row.sample}",
            row.text,
            tokens=row.completion_tokens,
            logprobs=(TokenLogprob("", row.mean_logprob),) if row.logprobs else (),
            finish_reason=row.finish_reason,
        )
        source = {
            "pool": self.path.name,
            "problem": row.problem,
            "sample": row.sample,
            "model": self.manifest.model,
        }
        return Sample(candidate, source, right=row.correct)
