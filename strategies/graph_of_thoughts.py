"""Graph of Thoughts: generate, score, keep the best, merge and refine, as a plan says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from strategies.base import Family, Need, Strategy, Temperature, best_first
from strategies.conversation import (
    MAX_PROMPT,
    asked,
    fill,
    holds,
    question_of,
    said,
    with_question,
)
from strategies.session import Session
from strategies.thought_plan import (
    PLAN,
    Aggregate,
    Generate,
    KeepBest,
    Operation,
    Plan,
    Refine,
    Score,
    calls,
)
from strategies.thoughts import drawn, grade
from verifiers.types import UNSCORED, Candidate, JSONObject

AGGREGATE = """\
{question}

---
Below are several answers to the above. Each may be right in some parts and wrong in others. Merge \
them into one answer that takes what is right from each and has no mistake of any, in the form \
that was asked for, without a word about them.

{thoughts}"""

GRADE = """\
Grade your reply above from 0 (wrong or useless) to 10 (certainly right and complete). Check it \
briefly, and end with a line that is only the grade."""

FEEDBACK = """\
Check your reply above step by step, against what was asked. Name each error and say how to mend \
it. Do not write the reply again."""

REFINE = """\
Write the whole reply again with everything mended that you have named. Write only the reply, in \
the form that was asked for, without a word about the earlier one."""


@dataclass(eq=False, slots=True)
class Graph:
    """All thoughts by id, in the order of their making, and the grades that the model gave."""

    thoughts: dict[str, Candidate] = field(default_factory=dict)
    grades: dict[str, float] = field(default_factory=dict)


class GraphOfThoughts(Strategy):
    """Generate answers, score them, keep the best, merge and refine them, in the order of a plan.

    A thought is a whole answer to the request's question, so that there is one at any moment. An
    operation takes the thoughts that the one before it left: `generate` adds `k` answers; `score`
    scores what is new, by the request's verifier or, with `evaluate: self`, by the mean of
    `evaluations` grades that the model gives; `keep_best` goes on with `n`; `aggregate` merges all
    into one and goes on with that, `keep`: with both; `refine` has the model criticise each and
    write it again, and goes on with both versions, so that one spoilt by it can lose. What comes
    last in the plan is the answer; further answers are the other thoughts of the graph, best
    first. Right where answers have parts: sorted lists, merged documents, sets.

    The paper has a plan and prompts for each task, scores by functions of the task or by the model,
    and publishes no defaults. The plan is ours: 4, scored, the best 2 merged, refined, and the
    better version; so are the zero-shot prompts. We deviate: a plan
    is a row, not a graph (thoughts form the graph), and splits no question into parts. A merged
    thought has the first, best of those it was merged from as its parent, a refined one the version
    before it. Merging needs two thoughts. What cannot be paid or fails leaves the thoughts as they
    were; unfinished ones come last. A grade that cannot be read abstains, and without any a thought
    comes after those with a score.
    """

    type: Literal["graph_of_thoughts"] = "graph_of_thoughts"
    family: ClassVar[Family] = "search"
    paper: ClassVar[str] = "Besta et al., Graph of Thoughts, 2308.09687"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.SCORES})

    plan: Plan = Field(PLAN, description="Operations, in their order.")
    evaluate: Literal["verifier", "self"] = Field("verifier", description="Who scores.")
    evaluations: int = Field(1, ge=1, le=16, description="Grades of a thought; self.")
    temperature: Temperature = None
    aggregate: Annotated[str, holds("question", "thoughts")] = Field(
        AGGREGATE, max_length=MAX_PROMPT, description="Asks to merge {thoughts}."
    )
    grade: str = Field(GRADE, min_length=1, max_length=MAX_PROMPT, description="Asks for a grade.")
    feedback: str = Field(
        FEEDBACK, min_length=1, max_length=MAX_PROMPT, description="Asks for criticism."
    )
    refine: str = Field(
        REFINE, min_length=1, max_length=MAX_PROMPT, description="Asks for the next version."
    )

    def samples(self, n: int) -> int:  # noqa: ARG002
        """Count what the plan makes, criticises and grades."""
        return calls(self.plan, self.evaluations if self.evaluate == "self" else 0)[0]

    def choices(self, n: int) -> int:  # noqa: ARG002
        """Every answer that the plan makes."""
        return calls(self.plan, 0)[1]

    def required(self) -> frozenset[Need]:
        """A plan without scores, or with the model's own, needs no verifier."""
        scores = any(isinstance(operation, Score) for operation in self.plan)
        return self.needs if scores and self.evaluate == "verifier" else frozenset()

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Follow the plan; order what it came to, then the rest of the graph."""
        graph = Graph()
        thoughts: list[Candidate] = []
        for operation in self.plan:
            thoughts = await self._apply(session, operation, thoughts, graph)
            graph.thoughts.update((each.id, each) for each in thoughts)
        left = {each.id for each in thoughts}
        others = [each for each in graph.thoughts.values() if each.id not in left]
        return sorted([*best_first(thoughts), *best_first(others)], key=lambda each: not each.done)

    async def _apply(
        self, session: Session, operation: Operation, thoughts: list[Candidate], graph: Graph
    ) -> list[Candidate]:
        match operation:
            case Generate(k=k) if thoughts:
                (more,) = await drawn([session.sample(k, temperature=self.temperature)])
                return [*thoughts, *more]
            case Generate(k=k):
                return await session.sample(k, temperature=self.temperature)
            case Score() if self.evaluate == "verifier":
                return await session.score(thoughts)
            case Score():
                return await self._graded(session, thoughts, graph.grades)
            case KeepBest(n=n):
                return best_first(thoughts)[:n]
            case Aggregate(k=k, keep=keep):
                merged = await self._merged(session, thoughts, k)
                return self._with(graph, merged, thoughts, keep=keep)
            case Refine(keep=keep):
                refined = await self._refined(session, thoughts)
                return self._with(graph, refined, thoughts, keep=keep)

    def _with(
        self, graph: Graph, new: list[Candidate], old: list[Candidate], *, keep: bool
    ) -> list[Candidate]:
        """Go on with what was finished; with what there was, too, where nothing was or `keep`."""
        graph.thoughts.update((each.id, each) for each in new)
        whole = [each for each in new if each.done]
        return [*whole, *old] if keep or not whole else whole

    async def _graded(
        self, session: Session, thoughts: Sequence[Candidate], grades: dict[str, float]
    ) -> list[Candidate]:
        new = [each for each in thoughts if each.id not in grades]
        forks = [session.fork(self._after(session, each, self.grade), stop=()) for each in new]
        replies = await drawn(
            fork.sample(self.evaluations, temperature=self.temperature) for fork in forks
        )
        for thought, some in zip(new, replies, strict=True):
            read = [number for number in map(grade, some) if number is not None]
            if some:
                grades[thought.id] = sum(read) / len(read) / 10 if read else UNSCORED
        return [replace(each, score=grades.get(each.id, UNSCORED)) for each in thoughts]

    async def _merged(
        self, session: Session, thoughts: Sequence[Candidate], k: int
    ) -> list[Candidate]:
        if len(thoughts) < 2:
            return []
        shown = [f"Answer {i}:\n{said(each)['content']}" for i, each in enumerate(thoughts, 1)]
        messages = session.prompt.messages
        question = question_of(messages)
        text = fill(self.aggregate, question=question, thoughts="\n\n".join(shown))
        return await self._written(session, with_question(messages, text), thoughts[0], k)

    async def _refined(self, session: Session, thoughts: Sequence[Candidate]) -> list[Candidate]:
        parts = session.split(len(thoughts))
        versions = await drawn(
            self._rewritten(part, each) for part, each in zip(parts, thoughts, strict=True)
        )
        return [each for some in versions for each in some]

    async def _rewritten(self, session: Session, thought: Candidate) -> list[Candidate]:
        messages = self._after(session, thought, self.feedback)
        (feedback,) = await session.fork(messages).sample(1, temperature=self.temperature)
        messages += [said(feedback), asked(self.refine)]
        return await self._written(session, messages, thought, 1)

    async def _written(
        self, session: Session, messages: Sequence[JSONObject], parent: Candidate, k: int
    ) -> list[Candidate]:
        """Answer the question again, by a prompt with what came before."""
        author = session.fork(messages, answers=True, formats=True)
        blank = [replace(each, parent=parent.id) for each in author.blank(k)]
        (written,) = await drawn([author.extend(blank, temperature=self.temperature)])
        return [each for each in written if each.tokens or each.done]

    def _after(self, session: Session, thought: Candidate, turn: str) -> list[JSONObject]:
        return [*session.prompt.messages, said(thought), asked(turn)]
