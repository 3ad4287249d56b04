"""How a session grows replies: branches, texts put in, and what is kept to finish one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from strategies.budget import Limit
from strategies.events import EventKind
from strategies.sampler import Sampler
from verifiers.types import Candidate


class Grower(Sampler):
    """Treats replies as nodes of a tree. The middle layer of a session."""

    def branch(self, candidates: Sequence[Candidate], widths: Sequence[int]) -> list[Candidate]:
        """Return `widths[i]` copies of candidate i, to go on with: new ids, it is their parent.

        Copies stand side by side, so that those of one candidate start together. A width of 0
        prunes it. A finished candidate is not copied: it stays, once.
        """
        grown: list[Candidate] = []
        for candidate, width in zip(candidates, widths, strict=True):
            if candidate.done or not width:
                grown.extend([candidate][:width])
            else:
                copies = self.blank(width)
                grown += [replace(candidate, id=c.id, parent=candidate.id) for c in copies]
        self.prune(each for each, width in zip(candidates, widths, strict=True) if not width)
        return grown

    def prune(self, candidates: Iterable[Candidate]) -> None:
        """Say that the algorithm goes no further with these; what is finished stays an answer."""
        for each in candidates:
            if not each.done:
                self._request.events.emit(EventKind.PRUNED, id=each.id, tokens=each.tokens)

    async def append(
        self,
        candidates: Sequence[Candidate],
        text: str,
        token_ids: Sequence[int] = (),
        *,
        instead_of: str = "",
    ) -> list[Candidate]:
        """Put a text into the replies, to go on after it; one that had ended is open again.

        It costs nothing, as nobody generated it. `token_ids`: where the text is one known token.
        `instead_of`: what is taken off first, where a reply ends with it.
        """
        added = tuple(token_ids) or await self.tokenize(text)
        reopened = [await self._reopened(each, instead_of) for each in candidates]
        appended = [
            replace(
                each,
                text=each.text + text,
                token_ids=each.token_ids + added if each.token_ids or not each.text else (),
            )
            for each in reopened
        ]
        self._produce(appended)
        return appended

    async def _reopened(self, candidate: Candidate, without: str) -> Candidate:
        """Undo a reply's end, and take off what it ends with, by its tokens where that is exact."""
        text, ids = candidate.text, candidate.token_ids
        ended = candidate.finish_reason == "stop" and candidate.stop_reason is None
        if ended and self.end_tokens:
            ids = ids[:-1]
        if without and text.endswith(without):
            text = text.removesuffix(without)
            last = await self.tokenize(without)
            exact = bool(last) and ids[-len(last) :] == last
            ids = ids[: -len(last)] if exact else await self.tokenize(text)
        return replace(
            candidate, text=text, token_ids=ids, message=None, finish_reason=None, stop_reason=None
        )

    def affords(self, candidates: Sequence[Candidate]) -> bool:
        """Whether one more step of each can be paid and scored, and one be finished after.

        Ask before each step: a search that ends in good time gives a whole answer. A part of a
        search leaves as much for every other part.
        """
        ledger, verifier = self._request.ledger, self._request.verifier
        moving = [each for each in candidates if not each.done]
        judged = verifier.step_calls if verifier is not None else 0
        least = self.kept(moving, self._parts * len(moving))
        if ledger.calls < self._parts * len(moving) * (1 + max(1, judged)) + 1:
            ledger.stopped_by = Limit.CALLS
        elif ledger.tokens + ledger.reserved <= least:
            ledger.stopped_by = Limit.TOKENS
        elif ledger.seconds >= ledger.budget.deadline_s:
            ledger.stopped_by = Limit.DEADLINE
        else:
            return True
        return False

    def kept(self, candidates: Sequence[Candidate], judged: int = 0) -> int:
        """Tokens to score `judged` replies and to finish one of the candidates.

        To finish one takes the rest of a reply, in a part of a search a whole one, as another part
        may have the best; at most a quarter of the budget is kept for that.
        """
        verifier = self._request.verifier
        begun = [each.tokens if self._parts == 1 else 0 for each in candidates if not each.done]
        rest = max((self._sampling.max_tokens - tokens for tokens in begun), default=0)
        finishing = min(rest, self._request.ledger.budget.max_tokens // 4)
        return finishing + (judged * verifier.step_tokens if verifier is not None else 0)

    def saving(self, leave: int = 0) -> AbstractContextManager[None]:
        """Keep what the answers take until this context ends: calls, and a quarter of the rest.

        For work that gives no answer by itself: whatever it costs, one can be written after it.
        `leave`: calls that the work may use at least.
        """
        ledger = self._request.ledger
        return ledger.saving(self.n * self.cap, min(self.n, ledger.calls - leave))
