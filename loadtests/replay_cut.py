"""Recorded samples cut by a request's limits, token by token, as the engine would have cut them.

Of the alternatives to a token only the mean of the 20 highest log-probabilities was recorded. So
each of `top_logprobs` alternatives has that mean (minus the recorded confidence), under a name that
is no token: DeepConf's confidence comes out as recorded; p(Yes) and self-certainty cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from loadtests.pools import Sample
from verifiers.types import FinishReason, JSONObject


@dataclass(frozen=True, slots=True)
class Limits:
    """The fields of a request that shape its replies."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    keep_stop: bool = False
    logprobs: int | None = None
    """As `Sampling.logprobs`: None, none; k, also k alternatives."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A recorded sample as far as the limits let it come."""

    tokens: tuple[str, ...]
    """The text of each token that was generated; the end token's is empty."""
    text: str
    """What is shown: without the stop string, unless it was asked for."""
    finish_reason: FinishReason
    stop_reason: str | None
    logprobs: tuple[JSONObject, ...] | None
    seconds: float
    """Of the recording, in proportion to the tokens that are left; 0 where it was not timed."""

    @property
    def pieces(self) -> list[str]:
        """What each token adds to the shown text."""
        ends = [min(end, len(self.text)) for end in accumulate(map(len, self.tokens), initial=0)]
        return [self.text[start:end] for start, end in pairwise(ends)]


def cut(sample: Sample, limits: Limits) -> Reply:
    """End a sample at the cap or at the first stop string; what was recorded shorter stays so."""
    whole = _tokens(sample)
    tokens, stop_reason = whole[: limits.max_tokens], None
    finish_reason: FinishReason = "length" if len(tokens) < len(whole) else sample.finish_reason
    text = "".join(tokens)
    if found := [(text.find(stop), stop) for stop in limits.stop if stop in text]:
        start, stop_reason = min(found)
        end, finish_reason = start + len(stop_reason), "stop"
        made = [len("".join(tokens[:place])) < end for place in range(len(tokens))]
        tokens = tokens[: sum(made)]
        text = text[: end if limits.keep_stop else start]
    logprobs = None if limits.logprobs is None else _logprobs(sample, tokens, limits.logprobs)
    seconds = (sample.seconds or 0.0) * len(tokens) / max(1, len(whole))
    return Reply(tokens, text, finish_reason, stop_reason, logprobs, seconds)


def _tokens(sample: Sample) -> tuple[str, ...]:
    """Split the text into its tokens; where their lengths are unknown, nearly evenly."""
    text, count = sample.text, sample.completion_tokens
    ends = list(accumulate(sample.lengths))
    if not ends:
        ends = [len(text) * place // count for place in range(1, count + 1)]
    ends += [len(text)] * (count - len(ends))
    return tuple(text[start:end] for start, end in pairwise((0, *ends)))


def _logprobs(sample: Sample, tokens: Sequence[str], k: int) -> tuple[JSONObject, ...] | None:
    if not sample.logprobs:
        return None
    tops = [_alternatives(confidence, k) for confidence in sample.confidence[: len(tokens)]]
    return tuple(
        {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": top}
        for token, logprob, top in zip(
            tokens, sample.logprobs, tops or [[] for _ in tokens], strict=False
        )
    )


def _alternatives(confidence: float, k: int) -> list[JSONObject]:
    return [
        {"token": f"<{rank}>", "logprob": -confidence, "bytes": None} for rank in range(1, k + 1)
    ]
