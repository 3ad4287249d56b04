"""Pools: samples recorded once, and replayed for ever.

A pool is a directory with `manifest.json` (what was asked of whom, and how) and shards
`*.jsonl.gz`, one line a sample. Shards are only ever appended to, a gzip member at a time, and
every run of the recorder opens a new one: what a crash leaves torn is at most the last member of
the last shard, and reading drops it.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from loadtests.tasks.base import Problem
from verifiers.types import Candidate, FinishReason, JSONObject, TokenLogprob

MANIFEST = "manifest.json"
POOLS = Path(__file__).parent / "pools"
"""The pools that are kept with the code."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One recorded reply. Numbers are rounded as they are recorded."""

    problem: str
    sample: int
    """Its number among the samples of the problem, from 0: the order in which replay gives them."""
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """The end token included, where the engine counts it."""
    lengths: tuple[int, ...] = ()
    """Characters of each token's text; empty where they do not add up to the text."""
    logprobs: tuple[float, ...] = ()
    """Natural-log probability of each token, without temperature."""
    confidence: tuple[float, ...] = ()
    """Of each token: minus the mean of the 20 highest log-probabilities (DeepConf, 2508.15260)."""
    seconds: float | None = None
    """From sending the request to the end of its reply, beside all others of the recording."""
    seed: int | None = None
    answer: str | None = None
    """The answer in its canonical form; None: it abstains."""
    correct: bool | None = None
    lenient: bool | None = None

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability per token; 0 tokens: 0."""
        return sum(self.logprobs) / max(1, len(self.logprobs))

    def candidate(self) -> Candidate:
        """Return the reply as strategies and verifiers see it; which tokens it has is not known."""
        return Candidate(
            f"{self.problem}.{self.sample}",
            self.text,
            tokens=self.completion_tokens,
            logprobs=tuple(TokenLogprob("", each) for each in self.logprobs),
            finish_reason=self.finish_reason,
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """A problem with its samples, in their order."""

    problem: Problem
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Manifest:
    """What a pool holds: written before the first sample, never changed after."""

    task: str
    model: str
    samples: int
    """Samples of each problem."""
    sampling: JSONObject
    """The request's fields beside model and messages: temperature, lengths, …"""
    problems: tuple[Problem, ...]
    seed: int = 0
    note: str = ""
    """Engine, precision, licence: what a reader wants to know and no field says."""


@dataclass(frozen=True)
class Pool:
    """Recorded samples of one task and model."""

    path: Path
    manifest: Manifest
    rows: tuple[Sample, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def title(self) -> str:
        """What was asked of whom, in a few words."""
        task = self.manifest.task.partition(",")[0].rpartition(":")[2]
        return f"{task}, {self.manifest.model}, {len(self.recorded)} problems"

    @cached_property
    def recorded(self) -> tuple[Recorded, ...]:
        """Every problem that has all its samples, in the manifest's order."""
        groups: dict[str, dict[int, Sample]] = defaultdict(dict)
        for row in self.rows:
            groups[row.problem].setdefault(row.sample, row)
        whole = range(self.manifest.samples)
        return tuple(
            Recorded(problem, tuple(groups[problem.id][number] for number in whole))
            for problem in self.manifest.problems
            if all(number in groups[problem.id] for number in whole)
        )


def open_pool(path: Path) -> Pool:
    """Read a pool's manifest and all rows that are whole.

    Raises:
        FileNotFoundError: there is no manifest: not a pool.
    """
    return Pool(path, read_manifest(path), tuple(read_rows(path)))


def joined(pools: Sequence[Pool]) -> Pool:
    """Put pools together: every problem once, by the first that has it, with samples that all have.

    Raises:
        ValueError: they are of different tasks or models.
    """
    first = pools[0].manifest
    for pool in pools[1:]:
        for name in ("task", "model"):
            if getattr(pool.manifest, name) != getattr(first, name):
                raise ValueError(f"{pools[0].name} and {pool.name} differ in {name}")
    owners: dict[str, tuple[Problem, Pool]] = {}
    for pool in pools:
        for problem in pool.manifest.problems:
            owners.setdefault(problem.id, (problem, pool))
    manifest = replace(
        first,
        samples=min(pool.manifest.samples for pool in pools),
        problems=tuple(problem for problem, _ in owners.values()),
    )
    rows = tuple(row for pool in pools for row in pool.rows if owners[row.problem][1] is pool)
    return Pool(Path(" + ".join(pool.name for pool in pools)), manifest, rows)


def read_manifest(path: Path) -> Manifest:
    """Read what a pool holds."""
    data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    problems = tuple(
        Problem(each["id"], tuple(each["messages"]), each["reference"], each.get("fields", {}))
        for each in data.pop("problems")
    )
    return Manifest(**data, problems=problems)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Found a pool: write its manifest, whole or not at all."""
    path.mkdir(parents=True, exist_ok=True)
    draft = path / f".{MANIFEST}"
    draft.write_text(json.dumps(asdict(manifest), ensure_ascii=False, indent=1), encoding="utf-8")
    draft.replace(path / MANIFEST)


def read_rows(path: Path) -> Iterator[Sample]:
    """Yield the samples of all shards; a torn end of a shard is dropped."""
    for shard in sorted(path.glob("*.jsonl.gz")):
        for line in _whole_members(shard.read_bytes()).splitlines():
            yield _sample(json.loads(line))


def append(shard: Path, rows: Sequence[Sample]) -> None:
    """Add rows to a shard as one gzip member."""
    lines = "".join(f"{_line(row)}\n" for row in rows)
    packer = zlib.compressobj(9, wbits=31)
    with shard.open("ab") as file:
        file.write(packer.compress(lines.encode()) + packer.flush())


def pack(path: Path, rows: Iterable[Sample], shard: str = "samples.jsonl.gz") -> None:
    """Write all rows in order into one shard, and drop the others."""
    old = [each for each in path.glob("*.jsonl.gz") if each.name != shard]
    draft = path / f".{shard}"
    draft.unlink(missing_ok=True)
    append(draft, sorted(rows, key=lambda row: (row.problem, row.sample)))
    draft.replace(path / shard)
    for each in old:
        each.unlink()


def _whole_members(data: bytes) -> bytes:
    """Return what the gzip members hold that were written to their end."""
    whole = b""
    while data:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            text = unpacker.decompress(data)
        except zlib.error:
            break
        if not unpacker.eof:
            break
        whole += text
        data = unpacker.unused_data
    return whole


def _line(row: Sample) -> str:
    given = {key: value for key, value in asdict(row).items() if value not in (None, ())}
    return json.dumps(given, ensure_ascii=False, separators=(",", ":"))


def _sample(row: dict[str, Any]) -> Sample:
    tuples = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
    return Sample(**{**row, **tuples})
