"""What `forethought ask` knows of a run, and how it looks: on a terminal, and in plain lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from strategies.events import EventKind
from verifiers.answers import answer_key, answer_of
from verifiers.types import Candidate, JSONObject, Prompt

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NO_ANSWER = "(no answer)"
_ROWS = 8
_WIDTH = 28


class Run:
    """A run as far as it is known; `feed` takes the chunks of its stream."""

    def __init__(self, messages: Sequence[JSONObject]) -> None:
        self._prompt = Prompt(tuple(messages))
        self.events: list[Mapping[str, Any]] = []
        self.samples: dict[str, str | None] = {}
        """The answer of each sample by its id, as far as a reader of its text can tell."""
        self.scores: dict[str, float] = {}
        self.tokens: Counter[str] = Counter()
        """Tokens by stage, as the events tell them."""
        self.classes: list[Mapping[str, Any]] = []
        """The server's own vote, once it has voted."""
        self.seconds = 0.0
        self.contents: dict[int, str] = {}
        self.tool_calls: list[Mapping[str, Any]] = []
        self.scaling: Mapping[str, Any] = {}

    def feed(self, chunk: Mapping[str, Any]) -> None:
        """Take one chunk: progress, a piece of the answer, or the final account."""
        scaling = chunk.get("scaling") or {}
        if "event" in scaling:
            self._take(scaling["event"])
        elif scaling:
            self.scaling = scaling
        for choice in chunk.get("choices") or ():
            delta = choice["delta"]
            piece = delta.get("content") or ""
            self.contents[choice["index"]] = self.contents.get(choice["index"], "") + piece
            self.tool_calls += delta.get("tool_calls") or ()

    def _take(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)
        self.seconds = event["seconds"]
        data = event["data"]
        match event["kind"]:
            case EventKind.SAMPLED:
                self.tokens[data["stage"]] += data["tokens"]
                if data["stage"] == "sample":
                    self.samples[data["id"]] = self._answer(data)
            case EventKind.SCORED if not data["abstained"]:
                self.scores[data["id"]] = data["score"]
            case EventKind.VOTED:
                self.classes = data["classes"]

    def _answer(self, data: Mapping[str, Any]) -> str | None:
        candidate = Candidate(data["id"], data["text"], finish_reason=data["finish_reason"])
        answer = answer_of(candidate, self._prompt)
        return None if answer is None else (answer_key(answer, self._prompt) or None)

    @property
    def votes(self) -> list[tuple[str, float]]:
        """Answers with their weight, heaviest first: the server's vote, else our own count."""
        if self.classes:
            return [(each["answer"], each["weight"]) for each in self.classes]
        counted = Counter(answer for answer in self.samples.values() if answer is not None)
        return [(answer, float(count)) for answer, count in counted.most_common()]

    @property
    def abstentions(self) -> int:
        """Samples without an answer."""
        return sum(answer is None for answer in self.samples.values())


class Lines:
    """The run as lines of text, for what is not a terminal."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._told = 0

    def new(self) -> Iterator[str]:
        """Give a line for each event since the last time."""
        for event in self._run.events[self._told :]:
            self._told += 1
            yield f"[{event['seconds']:6.1f}s] {self._line(event['kind'], event['data'])}"

    def _line(self, kind: str, data: Mapping[str, Any]) -> str:
        match kind:
            case EventKind.SAMPLED if data["stage"] == "sample":
                answer = self._run.samples[data["id"]] or _NO_ANSWER
                return f"sampled {data['id']}: {data['tokens']} tokens, {printable(answer)}"
            case EventKind.SAMPLED:
                return f"verified {data['id']}: {data['tokens']} tokens"
            case EventKind.SCORED:
                score = "abstained" if data["abstained"] else f"{data['score']:.3f}"
                return f"scored {data['id']}: {score}"
            case EventKind.VOTED:
                votes = ", ".join(
                    f"{each['answer']}: {each['weight']:g}" for each in data["classes"]
                )
                return f"voted {printable(votes)} ({data['abstentions']} without an answer)"
            case EventKind.PRUNED:
                return f"pruned {data['id']} after {data['tokens']} tokens"
            case EventKind.FAILED:
                return f"failed {data['id']}: {printable(data['error'])}"
        return kind


def view(run: Run, *, finished: bool = False) -> RenderableType:
    """Draw the run: a bar for each answer, scores, a meter of tokens, the answer, its cost."""
    parts: list[RenderableType] = [_headline(run), _vote_table(run)]
    if run.contents:
        parts.append(Text(f"\n{answer_text(run)}\n", style="bold" if finished else ""))
    if finished:
        parts.append(Text(bill(run), style="cyan"))
    return Group(*parts)


def _headline(run: Run) -> Text:
    spent = " + ".join(f"{tokens} {stage}" for stage, tokens in sorted(run.tokens.items()))
    line = f"{run.seconds:5.1f} s · {len(run.samples)} samples · tokens: {spent or 0}"
    if run.scores:
        values = run.scores.values()
        line += f" · scores {min(values):.3f} to {max(values):.3f}"
    return Text(line, style="dim")


def _vote_table(run: Run) -> Table:
    table = Table.grid(padding=(0, 1))
    votes = run.votes
    total = sum(weight for _, weight in votes) or 1.0
    for rank, (answer, weight) in enumerate(votes[:_ROWS]):
        style = "green" if rank == 0 else "blue"
        bar = ProgressBar(total=total, completed=weight, width=_WIDTH, complete_style=style)
        shown = Text(printable(answer), overflow="ellipsis", no_wrap=True)
        table.add_row(shown, bar, f"{weight / total:4.0%}", f"{weight:g}")
    if len(votes) > _ROWS:
        table.add_row(Text(f"{len(votes) - _ROWS} more", style="dim"))
    if run.abstentions:
        table.add_row(
            Text(_NO_ANSWER, style="dim"), "", "", Text(f"{run.abstentions}", style="dim")
        )
    return table


def answer_text(run: Run) -> str:
    """Write what the client gets: the reply, or replies, or the tool calls."""
    texts = [printable(text) for _, text in sorted(run.contents.items()) if text]
    calls = [
        f"{call['function']['name']}({printable(call['function']['arguments'])})"
        for call in run.tool_calls
    ]
    return "\n\n".join(texts + calls)


def bill(run: Run) -> str:
    """Write in one line what was answered and what it cost, as the server counted it."""
    scaling = run.scaling
    usage: Mapping[str, Mapping[str, Any]] = scaling.get("usage") or {}
    stages = {name: spent for name, spent in usage.items() if isinstance(spent, Mapping)}
    tokens = {name: spent["completion_tokens"] for name, spent in stages.items()}
    calls = sum(spent["calls"] for spent in stages.values())
    parts = []
    if scaling.get("answer") is not None:
        parts.append(f"answer {printable(str(scaling['answer']))}")
    if scaling.get("agreement") is not None:
        parts.append(f"agreement {scaling['agreement']:.0%}")
    detail = ", ".join(f"{name} {count}" for name, count in tokens.items() if count)
    about = "" if all(spent["exact"] for spent in stages.values()) else "at most "
    parts.append(f"{about}{sum(tokens.values())} tokens ({detail})")
    parts.append(f"{calls} calls")
    if scaling.get("seconds") is not None:
        parts.append(f"{scaling['seconds']:.1f} s")
    if scaling.get("stopped_by"):
        parts.append(f"stopped by {scaling['stopped_by']}")
    return " · ".join(parts)


def printable(text: str) -> str:
    """Drop control characters: a model's words must not steer the terminal."""
    return _CONTROL.sub("", text)
