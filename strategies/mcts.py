"""Monte Carlo tree search: go on where the mean value of a node and its few visits promise most."""

from __future__ import annotations

import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from strategies.base import Need, best_first
from strategies.concurrency import keep_busy
from strategies.search_tree import Node, Tree
from strategies.session import Session
from strategies.steps import StepSearch
from verifiers.types import Candidate

EXPLORATION = {"uct": 2.0, "puct": 1.25}
"""The constants of rStar and of AlphaMath."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What was generated: the children of `leaf`, and an end from the node that was visited."""

    leaf: Node
    children: list[Node]
    visited: Node
    rollout: Candidate | None


class MCTS(StepSearch):
    """Grow a tree of steps by simulations, and choose among the replies that it finished.

    A simulation goes down from the root to a leaf by `policy`: `uct` takes the largest
    Q + c·√(ln N / n), children without a visit first (Kocsis and Szepesvári 2006; rStar
    2408.06195); `puct` the largest Q + c·P·√N / (1 + n), P the geometric mean token probability of
    the step, normalised over its siblings (AlphaMath 2405.03553). A leaf that was visited before
    gets `children`, one step each, and the first of them is visited in its stead. The value of the
    visit, the verifier's score of the node or of one reply finished from there (`rollout`), is
    added to all nodes on the path. Ended replies are not expanded, and can be visited.

    Published: rStar c 2, 16 rollouts, depth 5, temperature 0.8; AlphaMath c 1.25, 40 simulations,
    5 children, depth 8, temperature 0.6; llm-reasoners c 1, 10 iterations. Here c is the paper's
    of the policy, with 16 simulations of 5 children.

    We deviate. Children are drawn together, equal ones become one, and those that the verifier
    likes are visited first; Q of a node without a visit is its score. `parallel` simulations run at
    once, each a virtual loss on its path until it ends, and nobody waits for another; with a seed
    they run in waves, and timing changes nothing. `mutual_consistency` goes on from the middle of
    each finished path once more, where rStar draws a place, and has those whose answer comes out
    again come first. Scores should be probabilities. All ties fall to the node made first.
    """

    type: Literal["mcts"] = "mcts"
    paper: ClassVar[str] = "Qi et al., Mutual Reasoning Makes Smaller LLMs Stronger, 2408.06195"

    simulations: int = Field(16, ge=1, le=1024, description="Visits of a leaf.")
    children: int = Field(5, ge=1, le=64, description="Steps drawn from a node.")
    policy: Literal["uct", "puct"] = Field("uct", description="How to go down the tree.")
    exploration: float | None = Field(
        None, ge=0, le=100, description="c. Default: 2 for uct, 1.25 for puct."
    )
    value: Literal["verifier", "rollout"] = Field("verifier", description="What a visit is worth.")
    select: Literal["vote", "score", "visits"] = Field(
        "vote", description="How to choose: by weighted vote, best score, or most visited path."
    )
    mutual_consistency: bool = Field(
        False, description="Check answers from half of their steps, for vote and score."
    )
    parallel: int = Field(4, ge=1, le=64, description="Simulations at once.")

    def samples(self, n: int) -> int:  # noqa: ARG002
        """Count steps, rollouts, checks of what may be finished, and the last reply."""
        ends = self.simulations * (self.children + 1)
        return ends * (1 + self.mutual_consistency) + 1

    def at_once(self, n: int) -> int:  # noqa: ARG002
        """Count the children of all simulations that run."""
        return self.parallel * self.children

    def required(self) -> frozenset[Need]:
        """Rollouts need no scores of steps, priors need log-probabilities."""
        without = {Need.STEP_SCORES} if self.value == "rollout" else set()
        return self.needs - without | ({Need.LOGPROBS} if self.policy == "puct" else set())

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Simulate, then choose."""
        return await self._choose(session, await self.search(session))

    async def search(self, session: Session) -> Tree:
        """Return the tree after all simulations, or as many as could be paid."""
        tree = Tree(Node(session.blank(1)[0]))
        await keep_busy(
            lambda: self._start(session, tree),
            lambda simulation: self._take(tree, simulation),
            self.parallel,
            in_waves=session.seeded,
        )
        return tree

    def _start(self, session: Session, tree: Tree) -> Coroutine[Any, Any, Simulation] | None:
        """Simulate what costs nothing; return the next simulation that has to generate."""
        while tree.simulations < self.simulations:
            leaf = tree.leaf(self._promise)
            closed = leaf.state.done or leaf.depth >= self.max_steps
            known = leaf.visits > 0 or (self.value == "verifier" and leaf.parent is not None)
            free = known and (closed or not leaf.visits)
            if leaf.busy or not (free or session.affords([leaf.state] * self.children)):
                return None
            tree.simulations += 1
            if not free:
                leaf.engage()
                return self._simulate(session.split(1)[0], leaf, closed=closed)
            leaf.back_up(leaf.estimate)
        return None

    def _promise(self, node: Node) -> float:
        """Return what the policy goes by; infinite for UCT where nobody has been."""
        assert node.parent is not None
        c = EXPLORATION[self.policy] if self.exploration is None else self.exploration
        if self.policy == "puct":
            return node.value + c * node.prior * math.sqrt(node.parent.tries) / (1 + node.tries)
        if not node.tries:
            return math.inf
        return node.value + c * math.sqrt(math.log(node.parent.tries) / node.tries)

    async def _simulate(self, session: Session, leaf: Node, *, closed: bool) -> Simulation:
        """Expand the leaf if it was visited, and find out what the visited node is worth."""
        grows = not closed and (leaf.visits > 0 or leaf.parent is None)
        children = await self._expand(session, leaf) if grows else []
        visited = children[0] if children else leaf
        if self.value == "verifier":
            return Simulation(leaf, children, visited, None)
        copies = session.branch([visited.state], [1])
        ended = await session.extend(copies, temperature=self.temperature)
        return Simulation(leaf, children, visited, (await session.score(ended))[0])

    async def _expand(self, session: Session, leaf: Node) -> list[Node]:
        """Draw steps from a leaf; equal ones become one, the verifier's favourites come first."""
        grown = await self.grow(session, session.branch([leaf.state], [self.children]))
        groups: dict[tuple[str, bool], list[Candidate]] = {}
        for each in grown:
            if each.done or each.tokens > leaf.state.tokens:
                groups.setdefault((each.text, each.done), []).append(each)
        session.prune(each for equals in groups.values() for each in equals[1:])
        states = [equals[0] for equals in groups.values()]
        if self.value == "verifier":
            states = await session.score(states)
        shares = [
            math.fsum(leaf.probability(each) for each in equals) for equals in groups.values()
        ]
        nodes = [
            Node(state, leaf, share / math.fsum(shares), leaf.depth + 1, worth(state))
            for state, share in zip(states, shares, strict=True)
        ]
        return sorted(nodes, key=lambda node: -node.estimate)

    def _take(self, tree: Tree, simulation: Simulation) -> None:
        """Add to the tree what a simulation found."""
        leaf, visited = simulation.leaf, simulation.visited
        leaf.release(simulation.children)
        tree.ended += [(child, child.state) for child in leaf.children if child.state.done]
        if simulation.rollout is not None:
            visited.estimate = worth(simulation.rollout)
            if simulation.rollout.done and not visited.state.done:
                tree.ended.append((visited, simulation.rollout))
        visited.back_up(visited.estimate)

    async def _choose(self, session: Session, tree: Tree) -> Sequence[Candidate]:
        """Rank the finished replies; where there is none, finish the best leaf."""
        leaves = [node.state for node in tree.nodes() if not node.children]
        found = await session.score([reply for _, reply in tree.ended])
        if self.select == "visits":
            last = tree.leaf(lambda node: (node.visits, node.value)).state
            session.prune(leaf for leaf in leaves if leaf.id != last.id)
            others = best_first(reply for reply in found if reply.id != last.id)
            return [*await session.conclude(last), *others]
        if not found:
            return await self.finish(session, leaves)
        session.prune(leaves)
        trusted = await self._consistent(session, tree, found)
        others = best_first(reply for reply in found if reply not in trusted)
        if self.select == "vote":
            return [*(await session.votes(trusted, weighted=True)).ranked, *others]
        return [*await self.finish(session, trusted), *others]

    async def _consistent(
        self, session: Session, tree: Tree, found: list[Candidate]
    ) -> list[Candidate]:
        """Return the replies whose answer comes out again from half of their path; all, if none."""
        halves = [node.halfway().state for node, _ in tree.ended]
        if not self.mutual_consistency or not session.affords(halves):
            return found
        checker = session.fork(session.prompt.messages, formats=True)
        copies = checker.branch(halves, [1] * len(halves))
        again = await checker.extend(copies, temperature=self.temperature)
        votes = await checker.votes([*found, *again])
        said = {each.id: a.answer for a in votes.classes for each in a.members}
        pairs = zip(found, again, strict=True)
        same = [a for a, b in pairs if a.id in said and said[a.id] == said.get(b.id)]
        return same or found


def worth(state: Candidate) -> float:
    """Return the score, 0 where the verifier abstained or could not be paid."""
    return state.score if math.isfinite(state.score) else 0.0
