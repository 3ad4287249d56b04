"""Read a server's traces: a question for each chat, with the replies that answer it.

Those are the replies drawn in one go from the request's own prompt, the answers that it chose, and
where a step search ran, everything that ended. A trace at a time is held, and no transaction
outlives a page of them: the server goes on writing meanwhile.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from server.traces.schema import READABLE
from strategies.base import strategy_classes
from strategies.budget import Stage
from strategies.events import EventKind
from strategies.steps import StepSearch
from training.data import DataError
from training.export.questions import Question, Sample, plain_messages
from verifiers.types import UNSCORED, Candidate, JSONObject, Message, TokenLogprob

_PAGE = 64


class TraceFile:
    """A store of traces, opened for reading alone.

    Raises:
        DataError: it is none, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        with self._reading() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in READABLE:
                known = " or ".join(map(str, READABLE))
                raise DataError(f"{path}: no traces of version {known}, but of {version}")
            (self.count,) = connection.execute("SELECT count(*) FROM traces").fetchone()

    def questions(
        self, verifier: str | None, advance: Callable[[], object], dropped: Counter[str]
    ) -> Iterator[Question]:
        """Yield a question for each trace that can be one.

        Args:
            verifier: whose scores are kept; None: nobody's.
            advance: called after each trace.
            dropped: counts traces and replies that are left out, by reason.
        """
        with self._reading() as connection:
            for trace_id, header, events in _traces(connection):
                try:
                    yield question_of(trace_id, header, events, verifier, dropped)
                except DataError as error:
                    dropped[f"traces: {error}"] += 1
                advance()

    def _reading(self) -> closing[sqlite3.Connection]:
        # Not `immutable`: a server may be writing, and a killed one's log has traces too.
        uri = f"file:{quote(str(self.path.absolute()))}?mode=ro"
        try:
            connection = sqlite3.connect(uri, uri=True, isolation_level=None)
            connection.execute("PRAGMA busy_timeout = 5000")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: cannot be read as traces: {error}") from error
        return closing(connection)


def _traces(
    connection: sqlite3.Connection,
) -> Iterator[tuple[str, dict[str, Any], list[tuple[str, dict[str, Any]]]]]:
    last = 0
    while page := connection.execute(
        "SELECT rowid, id, header FROM traces WHERE rowid > ? ORDER BY rowid LIMIT ?", (last, _PAGE)
    ).fetchall():
        for last, trace_id, header in page:  # noqa: B007  (where the next page begins)
            events = connection.execute(
                "SELECT kind, data FROM events WHERE trace_id = ? ORDER BY number", (trace_id,)
            ).fetchall()
            yield trace_id, json.loads(header), [(kind, json.loads(data)) for kind, data in events]


def question_of(
    trace_id: str,
    header: dict[str, Any],
    events: Sequence[tuple[str, dict[str, Any]]],
    verifier: str | None,
    dropped: Counter[str],
) -> Question:
    """Make a question of a trace. Raises DataError where it can be none."""
    if header["kind"] != "chat":
        raise DataError("not of a chat")
    if header["tools"]:
        raise DataError("tools")
    prompt = plain_messages(header["messages"])
    story = _Story(header, events, header["verifier"] if header["verifier"] == verifier else None)
    origin = {"trace": trace_id, "model": header["model"], "strategy": header["strategy"]}
    samples = [
        Sample(
            replace(each, id=f"{trace_id}/{each.id}"),
            {**origin, **story.judgement(each)},
            ends=story.step_ends(each),
        )
        for each in story.replies()
    ]
    ended = tuple(each for each in samples if each.candidate.done and each.text.strip())
    if len(ended) < len(samples):
        dropped["replies: unfinished or empty"] += len(samples) - len(ended)
    fields = dict(header["verifier_fields"])
    reference = fields.pop("reference", None)
    return Question(prompt, ended, reference, fields, origin, _format(header["response_format"]))


class _Story:
    """The events of a trace, put together: how each reply came to be, and what was said of it."""

    def __init__(
        self,
        header: JSONObject,
        events: Sequence[tuple[str, dict[str, Any]]],
        verifier: str | None,
    ) -> None:
        self._verifier = verifier
        self._states: dict[str, list[dict[str, Any]]] = {}
        self._scores: dict[tuple[str, str], dict[str, Any]] = {}
        self._messages = {each["id"]: each["message"] for each in header["drawn"]}
        self._own: set[str] = set(self._messages)
        names = {header["strategy"]}
        for kind, data in events:
            match kind:
                case EventKind.SAMPLED if data["stage"] == Stage.SAMPLE:
                    self._states.setdefault(data["id"], []).append(data)
                case EventKind.SCORED if verifier is not None and data["id"] in self._states:
                    self._keep_score(data)
                case EventKind.CHOSEN if data["strategy"] is not None:
                    names.add(data["strategy"]["type"])
                case EventKind.FINISHED:
                    self._own.update(data["choices"])
        if header["response_format"] is None and _searches(names):
            self._own.update(self._states)

    def replies(self) -> Iterator[Candidate]:
        """Yield the replies to the request's own prompt as they ended, in the order of drawing.

        Steps that others went on from are part of those.
        """
        parents = {states[-1]["parent"] for states in self._states.values()}
        for name, states in self._states.items():
            if name in self._own and (name not in parents or states[-1]["finish_reason"]):
                yield self._candidate(states[-1])

    def judgement(self, candidate: Candidate) -> JSONObject:
        """Tell what a row's source keeps beside the trace."""
        told: dict[str, Any] = {"candidate": candidate.id}
        if candidate.score != UNSCORED:
            told |= {"verifier": self._verifier, "score": candidate.score}
        return told

    def step_ends(self, candidate: Candidate) -> tuple[int, ...]:
        """Return where the steps of a search end in this reply; () where it was drawn in one go."""
        ends, name = {len(candidate.text)}, candidate.id
        while name in self._states:
            states = self._states[name]
            ends |= {len(e["text"]) for e in states if candidate.text.startswith(e["text"])}
            name = states[-1]["parent"] or ""
        ends.discard(0)
        return tuple(sorted(ends)) if len(ends) > 1 else ()

    def _keep_score(self, data: dict[str, Any]) -> None:
        # Siblings with the same words were one question, which names the first of them.
        state = self._states[data["id"]][-1]
        self._scores[state["parent"] or state["id"], state["text"]] = data

    def _candidate(self, state: dict[str, Any]) -> Candidate:
        score = self._scores.get((state["parent"] or state["id"], state["text"]))
        if score is not None and score["abstained"]:
            score = None
        mean, message = state["mean_logprob"], self._messages.get(state["id"])
        return Candidate(
            state["id"],
            state["text"],
            tokens=state["tokens"],
            logprobs=() if mean is None else (TokenLogprob("", mean),),
            message=None if message is None else Message(message["content"], message["reasoning"]),
            finish_reason=state["finish_reason"],
            score=UNSCORED if score is None else score["score"],
            steps=() if score is None else tuple(score["steps"]),
            parent=state["parent"],
        )


def _searches(names: set[str]) -> bool:
    classes = strategy_classes()
    return any(issubclass(classes[name], StepSearch) for name in names if name in classes)


def _format(response_format: JSONObject | None) -> JSONObject | None:
    free = response_format is None or response_format["type"] == "text"
    return None if free else response_format
