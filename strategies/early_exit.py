"""Early exit: ask for the answer while the model still thinks, and stop once it stays the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import Family, Need, Strategy, WorstCase, best_first
from strategies.budget import Budget
from strategies.conversation import MAX_PROMPT
from strategies.session import Session
from verifiers.answers import answer_of
from verifiers.base import Verifier
from verifiers.types import Candidate

PROBE = "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{"
FINAL = "\n\n**Final Answer**\n\n\\boxed{"
HESITATION = ("wait", "hold", "but", "okay", "no", "hmm")


class EarlyExit(Strategy):
    """Probe the answer as the reply grows, and write it down as soon as it has become stable.

    Every `every` tokens `probe` is put after the reply, aside, and up to `probe_tokens` are drawn.
    Certaindex, the reply's score, is the share of the last `patience` probes that give the same
    answer without a word of hesitation. When all do, `final` and that answer are put into the
    reply, and the model ends it. A reply that ends before is the answer. Probes are paid, and seen
    by nobody. Right for replies much longer than the way to their answer.

    Published: every 64 tokens; in the authors' code probes of 20 tokens, 3 that agree ("mid"
    effort), the probe's text and the words of hesitation. There a probe has temperature .6 and
    top-p .95, here the request's hold. We deviate: a probe is over before the reply goes on, which
    takes longer and generates less; a word of hesitation is a whole word outside the answer
    ("know" is no "no"); a probe without an answer agrees with none; `final` is shorter.
    """

    type: Literal["early_exit"] = "early_exit"
    family: ClassVar[Family] = "sequential"
    paper: ClassVar[str] = (
        "Fu et al., Efficiently Scaling LLM Reasoning with Certaindex, 2412.20993"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CONTINUATION})

    every: int = Field(64, ge=1, le=8192, description="Tokens between two probes.")
    patience: int = Field(3, ge=1, le=64, description="Probes that have to agree.")
    probe: str = Field(PROBE, min_length=1, max_length=MAX_PROMPT, description="Asks, aside.")
    probe_tokens: int = Field(20, ge=1, le=1024, description="Most tokens of a probe.")
    hesitation: tuple[str, ...] = Field(
        HESITATION, max_length=64, description="Words of a probe that make it count for nothing."
    )
    final: str = Field(
        FINAL, min_length=1, max_length=MAX_PROMPT, description="Put in before the stable answer."
    )
    end_of_thinking: str | None = Field(
        None, min_length=1, max_length=64, description="The model's mark, put in where it lacks."
    )

    def samples(self, n: int) -> int:
        """One for each answer; `worst_case` counts the pieces and the probes."""
        return n

    def worst_case(self, n: int, cap: int, verifier: Verifier | None, budget: Budget) -> WorstCase:  # noqa: ARG002
        """Count each piece and each probe as a sample, and the end after them."""
        pieces, probes = ceil(cap / self.every), (cap - 1) // self.every
        calls, tokens = n * (pieces + probes + 1), n * (cap + probes * self.probe_tokens)
        return WorstCase(min(calls, budget.max_calls), min(tokens, budget.max_tokens))

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Let each answer end when it is stable; the most certain one comes first."""
        parts = session.split(session.n)
        return best_first(await session.side_by_side(map(self._stable, parts)))

    async def _stable(self, session: Session) -> Candidate:
        """Go on and probe by turns, until the probes agree or the reply ends."""
        aside = session.fork(session.prompt.messages, formats=True)
        (reply,) = session.blank(1)
        probes: list[Candidate] = []
        while session.affords([reply]):
            before, kept = reply.tokens, session.kept([reply])
            (reply,) = await session.extend([reply], tokens=self.every, keep=kept)
            if reply.done or reply.tokens < before + self.every:  # the budget has no more pieces
                break
            probes.append(await self._probe(aside, reply))
            last = [each for each in probes[-self.patience :] if self._sure(each, aside)]
            votes = await aside.votes(last)
            agreed = len(votes.classes[0].members) if votes.classes else 0
            reply = replace(reply, score=agreed / self.patience)
            if votes.answer is not None and agreed == self.patience:
                session.decided()
                (reply,) = await session.append([reply], self._ending(reply, votes.answer))
                break
        (answer,) = await session.conclude(reply)
        return answer

    async def _probe(self, aside: Session, reply: Candidate) -> Candidate:
        """Return what the model says when asked now, as a text of its own."""
        asked = await aside.append(aside.branch([reply], [1]), self.probe)
        kept = aside.kept([reply])
        (told,) = await aside.extend(asked, tokens=self.probe_tokens, keep=kept)
        return replace(told, text=self.probe + told.text[len(asked[0].text) :], message=None)

    def _sure(self, probe: Candidate, aside: Session) -> bool:
        answer = answer_of(probe, aside.prompt) or ""
        said = probe.text[len(self.probe) :].replace(answer, "", 1)
        return not set(re.findall(r"\w+", said.lower())) & set(self.hesitation)

    def _ending(self, reply: Candidate, answer: str) -> str:
        closing = "}" if self.final.endswith("{") else ""
        thinks = self.end_of_thinking and self.end_of_thinking not in reply.text
        mark = f"\n{self.end_of_thinking}" if thinks else ""
        return f"{mark}{self.final}{answer}{closing}"
