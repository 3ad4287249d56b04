"""Read rows of training data, split and deduplicate them, and write them down.

A fault names file, line and field: `data.jsonl:17: chosen: empty`. Faulty rows are skipped and
counted, or the first one raises.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from pydantic import ValidationError

from training.rows import EMPTY, ROLE_ORDER, Conversation, Message, Prompted, Row

RowT = TypeVar("RowT", bound=Row)

SUFFIXES = (".jsonl", ".jsonl.gz")
_KINDS = {
    "json_invalid": "bad JSON",
    "missing": "missing field",
    "extra_forbidden": "unknown field",
    "too_short": "empty",
    "string_too_short": "empty",
    EMPTY: "empty",
    ROLE_ORDER: "wrong role order",
}
"""What pydantic's types of errors are called here; the others are a wrong value."""


class DataError(ValueError):
    """Data cannot be used; the message names the file and, where there is one, line and field."""


class Complaint(NamedTuple):
    """What a check finds wrong with a row that is well formed."""

    kind: str
    """Under which it is counted, such as `over the context`."""
    message: str
    field: str = ""


Check: TypeAlias = Callable[[RowT], Complaint | None]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a line is not used."""

    file: str
    line: int
    field: str
    kind: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: "
        return place + (f"{self.field}: {self.message}" if self.field else self.message)


@dataclass(frozen=True)
class Rows(Generic[RowT]):
    """What was read."""

    rows: tuple[RowT, ...]
    faults: tuple[Fault, ...]
    digests: dict[str, str]
    """The sha256 of each file, by its path."""

    @property
    def counts(self) -> dict[str, int]:
        """How many rows were left out, by kind of fault, the most frequent first."""
        return dict(Counter(fault.kind for fault in self.faults).most_common())

    @property
    def digest(self) -> str:
        """One sha256 for all files, in the order of reading: what the manifest keeps."""
        return hashlib.sha256("\n".join(self.digests.values()).encode()).hexdigest()

    @property
    def report(self) -> str:
        """What was read and left out, in a line, with the first fault."""
        told = f"{len(self.rows)} rows from {', '.join(self.digests)}"
        if not self.faults:
            return told
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        return f"{told}; left out {len(self.faults)}: {kinds} (first: {self.faults[0]})"


def read_rows(
    paths: Iterable[str | Path],
    row_class: type[RowT],
    *,
    strict: bool = False,
    check: Check[RowT] | None = None,
) -> Rows[RowT]:
    """Read JSONL files of one kind of row.

    Args:
        paths: files, `.gz` or not; directories of shards; patterns with `*`.
        row_class: of `training.rows`.
        strict: raise at the first fault.
        check: what a row must satisfy beside its form; says what is wrong, or None.

    Raises:
        DataError: a file is missing or broken, the first fault if `strict`, more than half of the
            rows are faulty, or there is none.
    """
    rows: list[RowT] = []
    faults: list[Fault] = []
    digests: dict[str, str] = {}
    for path in find_files(paths):
        data = path.read_bytes()
        digests[str(path)] = hashlib.sha256(data).hexdigest()
        for number, line in enumerate(_unpacked(path, data).split(b"\n"), 1):
            if not line.strip():
                continue
            found = _parse(line, row_class, check, str(path), number)
            if not isinstance(found, Fault):
                rows.append(found)
            elif strict:
                raise DataError(str(found))
            else:
                faults.append(found)
    if len(faults) > len(rows):
        total = len(faults) + len(rows)
        raise DataError(f"{len(faults)} of {total} rows cannot be used; the first: {faults[0]}")
    if not rows:
        raise DataError(f"{', '.join(digests)}: no rows")
    return Rows(tuple(rows), tuple(faults), digests)


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return the files that paths, directories and patterns name, each once.

    Raises:
        DataError: one names nothing, or a directory whose rows are of two splits.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = [each for each in sorted(path.iterdir()) if each.name.endswith(SUFFIXES)]
            if {"train", "test"} <= {each.name.partition(".")[0] for each in files}:
                raise DataError(f"{path}: holds two splits; name {files[-1].name} or the other")
        else:
            files = [path] if path.exists() else _matching(path)
        if not files:
            raise DataError(f"{path}: no such file, or no rows in it")
        found.update(dict.fromkeys(files))
    return list(found)


def write_rows(path: Path, rows: Iterable[Row]) -> str:
    """Write rows as JSONL, compressed if the name ends so, whole or not at all; return the sha256.

    Equal rows give equal bytes.
    """
    lines = (row.model_dump_json(exclude_defaults=True).encode() + b"\n" for row in rows)
    data = b"".join(lines)
    if path.name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(data)
    draft.replace(path)
    return hashlib.sha256(data).hexdigest()


def problem_of(row: Row) -> str:
    """Return what names a row's problem: its own name, else one made of the prompt."""
    if row.problem is not None:
        return row.problem
    if isinstance(row, Conversation):
        return question_id(row.messages[:-1])
    assert isinstance(row, Prompted)
    return question_id(row.prompt)


def question_id(messages: Iterable[Message]) -> str:
    """Name a question by its words: white space, case and system prompts make no difference."""
    words = [squeeze(each.content).casefold() for each in messages if each.role != "system"]
    return hashlib.blake2b(json.dumps(words).encode(), digest_size=8).hexdigest()


def split_by_problem(
    rows: Iterable[RowT], share: float, seed: int = 0
) -> tuple[list[RowT], list[RowT]]:
    """Split into training and test rows; a problem is never on both sides.

    A problem's side hangs on its name and the seed alone, so rows that are added later move none;
    hence the test side holds about `share` of the problems, and of a few perhaps none.
    """
    sides: tuple[list[RowT], list[RowT]] = ([], [])
    for row in rows:
        sides[_draw(problem_of(row), seed) < share].append(row)
    return sides


def deduplicate(rows: Iterable[RowT]) -> list[RowT]:
    """Keep the first of rows that say the same, whatever their white space, problem and source."""
    first: dict[Hashable, RowT] = {}
    for row in rows:
        content = row.model_dump(mode="json", exclude={"problem", "source"})
        first.setdefault((row.kind, json.dumps(_squeezed(content), sort_keys=True)), row)
    return list(first.values())


def squeeze(text: str) -> str:
    """Make every run of white space one blank, and drop it at the ends."""
    return " ".join(text.split())


def _squeezed(value: Any) -> Any:
    if isinstance(value, str):
        return squeeze(value)
    if isinstance(value, dict):
        return {key: _squeezed(each) for key, each in value.items()}
    return [_squeezed(each) for each in value] if isinstance(value, list) else value


def _draw(problem: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}/{problem}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _matching(path: Path) -> list[Path]:
    return [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]


def _parse(
    line: bytes, row_class: type[RowT], check: Check[RowT] | None, file: str, number: int
) -> RowT | Fault:
    try:
        row = row_class.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        kind = _KINDS.get(first["type"], "wrong value")
        message = "empty" if kind == "empty" else first["msg"]
        return Fault(file, number, ".".join(map(str, first["loc"])), kind, message)
    complaint = None if check is None else check(row)
    if complaint is not None:
        return Fault(file, number, complaint.field, complaint.kind, complaint.message)
    return row


def _unpacked(path: Path, data: bytes) -> bytes:
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}") from error
