"""The tree of a Monte Carlo tree search: replies so far, and what the visits to them came to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from verifiers.types import Candidate


@dataclass(eq=False, slots=True)
class Node:
    """A reply so far in the tree, and what the simulations through it came to."""

    state: Candidate
    parent: Node | None = None
    prior: float = 1.0
    depth: int = 0
    estimate: float = 0.0
    """What the node itself was found to be worth: its score, or its rollout's."""
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    pending: int = 0
    """Simulations under way through it. Each counts as a visit that was lost."""
    busy: bool = False
    """Whether one of them works on this very node."""

    @property
    def tries(self) -> int:
        """Visits, those under way included."""
        return self.visits + self.pending

    @property
    def value(self) -> float:
        """The mean over its visits, its own estimate before the first."""
        return self.total / self.tries if self.tries else self.estimate

    def path(self) -> Iterator[Node]:
        """Give the node, its parent, and so on to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def halfway(self) -> Node:
        """Return the node at half of its depth, the root for those just below it."""
        path = list(self.path())
        return path[len(path) // 2]

    def probability(self, child: Candidate) -> float:
        """Return the geometric mean token probability of a step from here; 1 if nothing tells."""
        step = child.logprobs[len(self.state.logprobs) :]
        return math.exp(math.fsum(each.logprob for each in step) / len(step)) if step else 1.0

    def engage(self) -> None:
        """Begin a simulation that ends here."""
        self.busy = True
        for node in self.path():
            node.pending += 1

    def release(self, children: list[Node]) -> None:
        """End the simulation, with the children that it made."""
        self.busy = False
        self.children = children
        for node in self.path():
            node.pending -= 1

    def back_up(self, value: float) -> None:
        """Count a visit of that value here and in all ancestors."""
        for node in self.path():
            node.visits += 1
            node.total += value


@dataclass(eq=False, slots=True)
class Tree:
    """What a search has grown."""

    root: Node
    simulations: int = 0
    ended: list[tuple[Node, Candidate]] = field(default_factory=list)
    """Finished replies, each with the node that it ends or was rolled out from."""

    def leaf(self, promise: Callable[[Node], Any]) -> Node:
        """Go down to the child that promises most, of equal ones the first, to the end."""
        node = self.root
        while node.children:
            node = max(node.children, key=promise)
        return node

    def nodes(self) -> Iterator[Node]:
        """Give every node, parents and elder siblings first."""
        row = [self.root]
        while row:
            yield from row
            row = [child for node in row for child in node.children]
