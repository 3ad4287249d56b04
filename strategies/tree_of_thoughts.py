"""Tree of Thoughts: think of several next steps, judge where each leads, go on from the best."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field

from strategies.concurrency import keep_busy
from strategies.session import Session
from strategies.thought_search import Judgements, State, ThoughtSearch
from verifiers.types import Candidate


@dataclass(eq=False, slots=True)
class Walk:
    """Where a depth-first search stands."""

    open: list[State] = field(default_factory=lambda: [()])
    """What waits to be gone on from; the last one is next."""
    passed: list[State] = field(default_factory=list)
    """Every state above the threshold, in the order of being found."""
    ended: list[State] = field(default_factory=list)
    """Those of them that nothing follows."""
    known: Judgements = field(default_factory=Judgements)
    visited: int = 0


class TreeOfThoughts(ThoughtSearch):
    """Search over thoughts that are proposed and judged by prompts, and answer by the best chain.

    A state is the thoughts so far. `generate`: `propose` has one call list the next thoughts, a
    line each; `sample` draws each by a call of its own, right where a thought is a paragraph.
    `evaluate`: `value` asks `evaluations` times whether a state is sure, likely or impossible
    (20, 1, .001) and takes the mean; `vote` asks as often for the best of all states; `verifier`
    has the request's verifier score the thoughts, a line each, as an unfinished reply. `search`:
    `bfs` keeps the best `breadth` states of each of `depth` levels, all judged side by side; `dfs`
    goes on from the best next state, gives up those not above `threshold`, goes back, and ends
    with a chain of `depth` thoughts for each answer, or after `max_states`. The answer is written
    by the best state, the i-th best for the i-th answer, and streams.

    Published, for Game of 24: bfs, propose, value, 3 evaluations, breadth 5, 3 thoughts and the
    equation, temperature .7; writing: 5 samples, 5 votes, breadth 1; crosswords: dfs, 100 states,
    3 of each state's children.

    We deviate. The prompts are zero-shot and fit any task; a chain ends before `depth` where a
    reply says `end` or gives nothing to read, keeps its place and costs nothing more. Of a list the
    first `proposals` lines count, and equal ones are one. Evaluations that cannot be read abstain:
    the mean is over the others, where the authors count 0 in a sum; without any, a state is behind
    all others, and dfs gives it up. Prompts that read the same are valued once, so that with
    `{last}` for `{thoughts}` in `value` only the last thought counts. Crosswords' dfs goes through
    all 100 states and keeps the deepest one; so do we where no chain ends. `parallel` of its
    branches go on at once, with a seed in waves. All ties fall to the state found first. A quarter
    of the budget is kept to write the answer, without thoughts where it allowed none.
    """

    type: Literal["tree_of_thoughts"] = "tree_of_thoughts"
    paper: ClassVar[str] = (
        "Yao et al., Tree of Thoughts: Deliberate Problem Solving with LLMs, 2305.10601"
    )

    search: Literal["bfs", "dfs"] = Field("bfs", description="Level by level, or in depth.")
    depth: int = Field(3, ge=1, le=64, description="Most thoughts of a chain.")
    breadth: int = Field(5, ge=1, le=64, description="States kept of a level; bfs.")
    threshold: float = Field(0.5, ge=0, le=64, description="States above it are gone on from; dfs.")
    max_states: int = Field(100, ge=1, le=1024, description="States gone on from; dfs.")
    parallel: int = Field(1, ge=1, le=64, description="States gone on from at once; dfs.")

    def samples(self, n: int) -> int:
        """Count all thoughts and judgements of the widest tree, and the answers."""
        if self.search == "dfs":
            return self.calls(self.max_states, self.max_states) + n
        states = sum(min(self.breadth, self.proposals**level) for level in range(self.depth))
        return self.calls(states, self.depth) + n

    def at_once(self, n: int) -> int:
        """Count the judgements of a level, or of the states that a depth-first search is at."""
        states = self.breadth if self.search == "bfs" else self.parallel
        return max(n, states * self.proposals * self.evaluations)

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Search for chains of thoughts, then write the answers by the best."""
        search = self.breadth_first if self.search == "bfs" else self.depth_first
        with session.saving():
            states = await search(session)
        return await self.write(session, states[: session.n])

    async def breadth_first(self, session: Session) -> list[State]:
        """Return the states of the last level that was judged, best first."""
        known = Judgements()
        frontier: list[State] = [()]
        ended: set[State] = set()
        for _ in range(self.depth):
            moving = [state for state in frontier if state not in ended]
            following = dict(zip(moving, await self.following(session, moving), strict=True))
            ended |= {state for state in moving if not following[state]}
            if ended.issuperset(moving):
                break
            level = [each for state in frontier for each in following.get(state) or [state]]
            await self.judge(session, level, known)
            frontier = known.best(level)[: self.breadth]
        return frontier

    async def depth_first(self, session: Session) -> list[State]:
        """Return the states above the threshold: chains that ended, best first, then the deepest.

        Where nothing is above it, only the state without thoughts is left.
        """
        walk = Walk()
        await keep_busy(
            lambda: self._start(session, walk),
            lambda visit: self._take(walk, *visit),
            self.parallel,
            in_waves=session.seeded,
        )
        deepest = sorted(walk.known.best(walk.passed), key=lambda state: -len(state))
        return list(dict.fromkeys([*walk.known.best(walk.ended), *deepest])) or [()]

    def _start(
        self, session: Session, walk: Walk
    ) -> Coroutine[Any, Any, tuple[State, list[State]]] | None:
        enough = len(walk.ended) >= session.n or walk.visited >= self.max_states
        if enough or session.spent or not walk.open:
            return None
        walk.visited += 1
        return self._visit(session.split(1)[0], walk.open.pop(), walk.known)

    async def _visit(
        self, session: Session, state: State, known: Judgements
    ) -> tuple[State, list[State]]:
        (found,) = await self.following(session, [state])
        await self.judge(session, found, known)
        return state, found

    def _take(self, walk: Walk, state: State, found: Sequence[State]) -> None:
        """Put the states above the threshold on top, the best one uppermost."""
        passed = [s for s in walk.known.best(found) if walk.known.value(s) > self.threshold]
        walk.passed += passed
        if state and not found:
            walk.ended.append(state)
        elif len(state) + 1 == self.depth:
            walk.ended += passed
        else:
            walk.open += reversed(passed)
