"""Trees of texts: what a scripted engine says step by step, and a verifier that knows the texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from server.engines.scripted import ScriptedEngine
from server.engines.scripts import Script
from strategies.base import Strategy
from strategies.events import EventKind
from tests.strategies.harness import Bench
from verifiers.base import Verifier
from verifiers.types import Candidate, Powers, Prompt, Sampling, Score, Task

END = "\n\n"
"""Ends every step but a reply's last."""

Children = Mapping[str, Sequence[str]]
"""The steps that may follow each path, written without `END`: `{"": ["a", "b"], "a": ["c"]}`.

A path is its steps joined by a blank. What nothing follows ends its reply.
"""


def tree(children: Children) -> Script:
    """Make a script in which the k-th sample drawn from a path gets its child k, round and round.

    The first sample that goes on from a path is not asked for: it says what its reply was planned
    to be, which follows first children throughout, child 0. So the samples that are asked for
    begin at child 1, but for those from the root.
    """
    asked: Counter[str] = Counter()

    def script(prompt: Prompt, _sampling: Sampling, _index: int) -> str:
        path = path_of(prompt.reply.text if prompt.reply else "")
        steps = children[path]
        step = steps[(asked[path] + bool(path)) % len(steps)]
        asked[path] += 1
        said = [step]
        while following := children.get(" ".join([*path.split(), *said])):
            said.append(following[0])
        return END.join(said)

    return script


def path_of(text: str) -> str:
    """Write a reply so far as a path."""
    return " ".join(text.split())


class Marks(Verifier):
    """Score replies by their path; what has no score is abstained on."""

    type: Literal["marks"] = "marks"

    scores: dict[str, float]

    @property
    def partial(self) -> bool:
        return True

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        found = [self.scores.get(path_of(each.text)) for each in candidates]
        return [Score(0.0, abstained=True) if s is None else Score(s) for s in found]


class Walk(Bench):
    """A search through a tree, and what became of each path."""

    @classmethod
    def through(cls, children: Children, scores: Mapping[str, float], **given: object) -> Walk:
        """Set a tree up under marks."""
        engine = ScriptedEngine(tree(children))
        return cls(engine, verifier=Marks(scores=dict(scores)), **given)  # type: ignore[arg-type]

    async def paths(self, strategy: Strategy) -> list[str]:
        """Run, and return the paths of all candidates for the answer, best first."""
        self.n = self.session.n = max(self.n, 64)
        return [path_of(each.text) for each in (await self.run(strategy)).choices]

    def steps(self) -> list[str]:
        """Return the path of every step that was generated, in the order of their ends."""
        return [path_of(e.data["text"]) for e in self.events.events if e.kind is EventKind.SAMPLED]

    def judged(self) -> list[str]:
        """Return the paths that were scored, in that order."""
        return self._paths(EventKind.SCORED)

    def pruned(self) -> list[str]:
        """Return the paths that were given up, in that order."""
        return self._paths(EventKind.PRUNED)

    def _paths(self, kind: EventKind) -> list[str]:
        texts: dict[str, str] = {}
        paths = []
        for event in self.events.events:
            if event.kind is EventKind.SAMPLED:
                texts[event.data["id"]] = event.data["text"]
            elif event.kind is kind:
                paths.append(path_of(texts[event.data["id"]]))
        return paths
