"""An engine that thinks by a table: what follows each state, what each is worth, who is voted for.

The prompts that it reads are its own: a letter for their kind, the question, and the thoughts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.engines.scripted import ScriptedEngine
from strategies.tree_of_thoughts import TreeOfThoughts
from verifiers.types import Prompt, Sampling

PROMPTS = {
    "propose": "propose: {question}|{thoughts}",
    "sample": "sample: {question}|{thoughts}",
    "value": "value: {question}|{thoughts}",
    "vote": "vote: {question}|{choices}",
    "answer": "answer: {question}|{thoughts}",
}

Table = Mapping[str, Sequence[str]]
"""Replies by state, its thoughts joined by a blank; the i-th sample says the i-th, round and round.

A thought that a table does not know ends its chain.
"""


def thinking(**given: Any) -> TreeOfThoughts:
    """Make the strategy with prompts that the engine reads."""
    return TreeOfThoughts(**{**PROMPTS, **given})


class Thinker(ScriptedEngine):
    """Says what the tables say, and keeps what it was asked: kind and state."""

    def __init__(
        self,
        follows: Table,
        values: Table | None = None,
        votes: Sequence[str] = (),
        **given: Any,
    ) -> None:
        super().__init__(self._say, **given)
        self.follows, self.values, self.votes = follows, values or {}, votes
        self.asked: list[str] = []
        self.prompts: dict[str, Prompt] = {}
        self.samplings: dict[str, Sampling] = {}
        self.tell: Callable[[str], str] = lambda state: f"by {state} \\boxed{{{state or 'none'}}}"

    def heard(self, kind: str) -> list[str]:
        """Return the states of all samples of a kind, in their order."""
        return [each.partition(" ")[2] for each in self.asked if each.split(" ")[0] == kind]

    def _say(self, prompt: Prompt, sampling: Sampling, index: int) -> str:
        text = str(prompt.messages[-1]["content"])
        found = re.fullmatch(r"(\w+): (?:.*?)\|(.*)", text, re.DOTALL)
        kind, thoughts = (found[1], found[2]) if found else ("plain", "")
        state = " ".join(thoughts.replace("(none yet)", "").split("\n"))
        self.asked.append(f"{kind} {state}")
        self.prompts[kind], self.samplings[kind] = prompt, sampling
        place = sampling.first + index
        if kind == "propose":
            return "\n".join(self.follows.get(state, ["DONE"]))
        if kind in ("answer", "plain"):
            return self.tell(state)
        table = {"sample": self.follows, "value": self.values}.get(kind)
        replies = self.votes if table is None else table.get(state, ["DONE"])
        return replies[place % len(replies)]
