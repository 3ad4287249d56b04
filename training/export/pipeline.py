"""The line from recordings to a data set: read, judge, screen, make rows, split, write, report."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from training.data import DataError, deduplicate, problem_of, split_by_problem, write_rows
from training.export.contamination import Contamination, read_questions
from training.export.kinds import KINDS, Selection
from training.export.labelling import Completing, Labelling, labelled_rows, replies_of
from training.export.pools import PoolDirectory
from training.export.questions import Question, merged
from training.export.stored import StoredTraces, is_address, shown_address
from training.export.traces import TraceFile
from training.export.verdicts import Evidence, judged
from training.rows import Prompted, Row, Stepped
from verifiers.equality import AnswerEquality

REPORT = "report.json"


@dataclass(frozen=True, slots=True)
class Order:
    """What to export: the command's parameters."""

    kind: str
    out: Path
    traces: tuple[Path | str, ...] = ()
    """Files of traces, or addresses of stores."""
    pools: tuple[Path, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    selection: Selection = field(default_factory=Selection)
    test_share: float = 0.0
    seed: int = 0
    against: tuple[Path, ...] = ()
    ngram: int = 13
    labelling: Labelling | None = None
    """How to label steps anew; None: as was recorded."""


class Progress(Protocol):
    """Who is told how it goes."""

    def start(self, work: str, total: int) -> None:
        """A piece of work begins that has so many parts."""

    def advance(self) -> None:
        """One of them is done."""


@dataclass
class Report:
    """What came of it; `report.json`."""

    kind: str
    parameters: dict[str, Any]
    read: dict[str, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    """Traces, questions, replies and rows that were left out, by reason."""
    written: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Rows, problems and sha256 of each file."""
    digests: dict[str, str] = field(default_factory=dict)
    """The sha256 of what was read, but for traces, which go on growing."""


def export(order: Order, progress: Progress, completing: Completing | None = None) -> Report:
    """Write `train.jsonl.gz`, `test.jsonl.gz` and `report.json`; the report comes last.

    Args:
        order: what to export.
        progress: is told how it goes.
        completing: whoever completes replies, where steps are labelled anew.

    Raises:
        DataError: something cannot be read, or nothing is left.
    """
    report = Report(order.kind, _parameters(order))
    questions = merged(_read(order, progress, report))
    report.read["questions"] = len(questions)
    report.read["replies"] = sum(len(each.samples) for each in questions)
    questions = _screened(questions, order, report)
    questions = asyncio.run(_judged(questions, order.evidence, progress))
    for each in questions:
        _count(report.dropped, "replies: said before", len(each.samples) - len(each.unique))
    if order.labelling is None or completing is None:
        made = _recorded_rows(questions, order, report.dropped)
    else:
        replies = replies_of(
            questions, order.selection.separator, order.selection.per_problem, report.dropped
        )
        progress.start(order.labelling.method, len(replies))
        made = labelled_rows(replies, order.labelling, completing, progress.advance)
    rows = deduplicate(made)
    _count(report.dropped, "rows: duplicates", len(made) - len(rows))
    _write(rows, order, report)
    return report


def _parameters(order: Order) -> dict[str, Any]:
    """Write the order down, without passwords."""
    told: dict[str, Any] = json.loads(json.dumps(asdict(order), default=str))
    told["traces"] = [shown_address(each) if is_address(each) else each for each in told["traces"]]
    return told


def _recorded_rows(questions: Sequence[Question], order: Order, dropped: Counter[str]) -> list[Row]:
    make = KINDS[order.kind]
    made: list[Row] = []
    for question in questions:
        if order.kind not in (Prompted.kind, Stepped.kind):
            unknown = sum(each.right is None for each in question.unique)
            _count(dropped, "replies: nothing tells", unknown)
        rows = list(make(question, order.selection))
        _count(dropped, f"questions: give no {order.kind}", not rows)
        made += rows
    return made


def _read(order: Order, progress: Progress, report: Report) -> Iterable[Question]:
    for place in map(str, order.traces):
        traces = StoredTraces(place) if is_address(place) else TraceFile(Path(place))
        progress.start(f"traces {traces.name}", traces.count)
        report.read["traces"] = report.read.get("traces", 0) + traces.count
        yield from traces.questions(order.evidence.verifier, progress.advance, report.dropped)
    for path in order.pools:
        pool = PoolDirectory(path)
        progress.start(f"pool {path.name}", pool.count)
        report.digests |= pool.digests()
        yield from pool.questions(progress.advance, report.dropped)


def _screened(questions: list[Question], order: Order, report: Report) -> list[Question]:
    """Leave out what a test asks too."""
    if not order.against:
        return questions
    tests = Contamination(
        (each for path in order.against for each in read_questions(path)), order.ngram
    )
    report.read["test questions"] = tests.count
    clean = [
        question
        for question in questions
        if not any(each.role == "user" and each.content in tests for each in question.prompt)
    ]
    _count(report.dropped, "questions: in a test", len(questions) - len(clean))
    return clean


async def _judged(
    questions: list[Question], evidence: Evidence, progress: Progress
) -> list[Question]:
    progress.start("verdicts", len(questions))
    made = []
    async with aclosing(AnswerEquality()) as equality:
        for question in questions:
            made.append(await judged(question, evidence, equality))
            progress.advance()
    return made


def _write(rows: Sequence[Row], order: Order, report: Report) -> None:
    if not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        raise DataError(
            f"no rows of kind {order.kind!r} are left; left out: {reasons or 'nothing'}"
        )
    (order.out / REPORT).unlink(missing_ok=True)
    sides = split_by_problem(rows, order.test_share, order.seed)
    for name, side in zip(("train", "test"), sides, strict=True):
        path = order.out / f"{name}.jsonl.gz"
        report.written[name] = {
            "rows": len(side),
            "problems": len({problem_of(row) for row in side}),
            "sha256": write_rows(path, side),
        }
    text = json.dumps(vars(report), indent=1, ensure_ascii=False)
    draft = order.out / f".{REPORT}"
    draft.write_text(f"{text}\n", encoding="utf-8")
    draft.replace(order.out / REPORT)


def _count(dropped: Counter[str], reason: str, count: int) -> None:
    if count:
        dropped[reason] += count
