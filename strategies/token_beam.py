"""Token beam: the reply with the highest log-probability that a beam of b prefixes finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from strategies.base import Family, Need, Strategy, WorstCase, best_first
from strategies.budget import Budget
from strategies.session import Session
from verifiers.base import Verifier
from verifiers.types import (
    Candidate,
    Capabilities,
    Continuation,
    FinishReason,
    TokenLogprob,
)

UNDECODED = "\ufffd"
"""Stands in a token's text for bytes that are no whole character."""


LONGEST = 1 << 17
"""More tokens than any reply has."""


class TokenBeam(Strategy):
    """Keep the b likeliest prefixes, token by token, and return the likeliest finished reply.

    Every position asks for one token of each beam and for its 2b likeliest; of all continuations
    the b likeliest go on, and those that end the reply are set aside. The score of a reply is its
    summed log-probability over its length to the power `length_penalty`. Over once b replies have
    ended that score at least as high as every beam left. Right where the likeliest reply is
    wanted, as in translation; on open questions it is often worse than sampling.

    Published widths are 4 and 5. As in vLLM's beam search, there are 2b continuations for a beam
    and the length penalty is 1. We deviate: the length is the reply's, without the prompt, but
    with its end token; the stopping rule is that of transformers; log-probabilities are the
    model's own, whatever the temperature.

    It costs b generated tokens and b calls a position: raise `budget.max_calls`. Before they are
    spent the likeliest beam is finished greedily. Needs token ids. A token that is no whole
    character goes on only where it is a beam's likeliest, as nobody else can decode it. Stop
    strings are seen within one token only; an end that was not drawn leaves thinking unparsed. Who
    wants n answers has n beginnings, so that one that fails costs itself; equal beams become one.
    Equal scores fall to the earlier beam, then to the engine's order of the alternatives.
    """

    type: Literal["token_beam"] = "token_beam"
    family: ClassVar[Family] = "search"
    paper: ClassVar[str] = "Graves, Sequence Transduction with RNNs, 1211.3711"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.LOGPROBS, Need.CONTINUATION})

    width: int = Field(4, ge=1, le=10, description="Prefixes kept.")
    length_penalty: float = Field(
        1.0, ge=0, le=10, description="Power of the length; 0: none, above 1: longer replies."
    )

    def samples(self, n: int) -> int:  # noqa: ARG002
        """Count a call for each token of each beam; only the reply's cap bounds it."""
        return LONGEST * self.width

    def at_once(self, n: int) -> int:  # noqa: ARG002
        """Every beam goes on by a token."""
        return self.width

    def choices(self, n: int) -> int:  # noqa: ARG002
        """Give at most as many as there are beams."""
        return self.width

    def worst_case(self, n: int, cap: int, verifier: Verifier | None, budget: Budget) -> WorstCase:  # noqa: ARG002
        """Return a token and a call for each place of each beam."""
        most = self.width * cap
        return WorstCase(min(most + 1, budget.max_calls), min(most, budget.max_tokens))

    def unavailable(self, capabilities: Capabilities) -> str | None:
        """Ask for continuing by ids, and for twice as many alternatives as there are beams."""
        given, wanted = capabilities.logprobs or 0, 2 * self.width
        if capabilities.continuation is not Continuation.TOKEN_IDS:
            return "the engine cannot go on with a reply by token ids"
        if given < wanted:
            return f"the engine gives {given} of the {wanted} alternatives needed"
        return None

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Go on by a token, keep the likeliest, until no beam can win."""
        beams, ended = session.blank(session.n), list[Candidate]()
        while beams and not self._over(beams, ended) and session.affords(beams):
            options = await self._options(session, beams)
            if not options:
                break
            ended += [option for option in options if option.done]
            going = sorted((o for o in options if not o.done), key=lambda option: -option.score)
            kept = [*ended, *going[: self.width]]
            alive = {each.id for each in kept} | {each.parent for each in kept}
            session.prune(beam for beam in beams if beam.id not in alive)
            beams = await session.append(going[: self.width], "")  # a record of what was not drawn
        session.prune(beams if ended else beams[1:])
        if not ended:
            ended = await session.extend(beams[:1], temperature=0.0)
        ranked = best_first(ended)[: self.width]
        return [*await session.conclude(ranked[0]), *ranked[1:]]

    def _over(self, beams: Sequence[Candidate], ended: Sequence[Candidate]) -> bool:
        """Whether as many replies have ended as there are beams, none of them worse than these."""
        scores = sorted((each.score for each in ended), reverse=True)
        return len(scores) >= self.width and scores[self.width - 1] >= beams[0].score

    async def _options(self, session: Session, beams: Sequence[Candidate]) -> list[Candidate]:
        """Return what the beams can become by one token, beam by beam, likeliest first."""
        grown = await session.extend(beams, tokens=1, temperature=0.0, logprobs=2 * self.width)
        options: dict[tuple[int, ...], Candidate] = {}
        for before, after in zip(beams, grown, strict=True):
            if len(after.logprobs) == len(before.logprobs):
                continue  # it failed, or could not be paid
            for place in range(len(after.logprobs[-1].top_ids)):
                state = self._state(before, after, place, session.end_tokens)
                if state is None or state.token_ids in options:
                    continue
                if not state.done or state.token_ids != after.token_ids:
                    (name,) = session.branch([before], [1])
                    state = replace(state, id=name.id, parent=name.parent)
                options[state.token_ids] = state
        ended = [option for option in options.values() if option.done]
        going = [option for option in options.values() if not option.done]
        return [*await session.extend(ended), *going]  # for nothing: it records what has ended

    def _state(
        self, before: Candidate, after: Candidate, place: int, ends: Sequence[int]
    ) -> Candidate | None:
        """Return the beam with the alternative at `place`; None where its text is not known."""
        drawn = after.logprobs[-1]
        token_id, (text, logprob) = drawn.top_ids[place], drawn.top[place]
        state = after
        if token_id != after.token_ids[-1]:
            if UNDECODED in text and token_id not in ends:
                return None
            entry = TokenLogprob(text, logprob, drawn.top, drawn.top_ids)
            finish: FinishReason | None = "length" if after.finish_reason == "length" else None
            state = replace(
                after,
                text=before.text + ("" if token_id in ends else text),
                token_ids=(*before.token_ids, token_id),
                logprobs=(*before.logprobs, entry),
                message=None,
                finish_reason="stop" if token_id in ends else finish,
                stop_reason=None,
            )
        whole = math.fsum(each.logprob for each in state.logprobs)
        return replace(state, score=whole / len(state.logprobs) ** self.length_penalty)
