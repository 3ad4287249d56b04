"""How sure a model was along a reply: the group confidence of DeepConf (2508.15260)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from verifiers.types import TokenLogprob

FLOOR = -100.0
"""Log-probability of what cannot be said: a grammar gives -inf, some servers write -9999."""


class Groups:
    """The confidence of every window of one reply, kept up as it grows at a sum per token.

    A token's confidence is minus the mean log-probability of its likeliest alternatives: the surer
    the model, the less is left for the others, and the higher it is. A group's is its tokens' mean.
    """

    def __init__(self, width: int) -> None:
        """Begin a reply; `width`: tokens of a window."""
        self.lowest = math.inf
        """The least confident of the full windows so far."""
        self._width = width
        self._sums = [0.0]

    def take(self, tokens: Sequence[TokenLogprob]) -> None:
        """Look at what is new in the reply; `tokens` is all of it."""
        for token in tokens[len(self._sums) - 1 :]:
            self._sums.append(self._sums[-1] + token_confidence(token))
            if len(self._sums) > self._width:
                group = self._sums[-1] - self._sums[-1 - self._width]
                self.lowest = min(self.lowest, group / self._width)


def token_confidence(token: TokenLogprob) -> float:
    """Return minus the mean log-probability of the alternatives, 0 where there are none."""
    return -sum(max(logprob, FLOOR) for _, logprob in token.top) / max(1, len(token.top))


def lowest_group(tokens: Sequence[TokenLogprob], width: int) -> float:
    """Return the lowest group's confidence; what is shorter than a window is one group."""
    groups = Groups(max(1, min(width, len(tokens))))
    groups.take(tokens)
    return groups.lowest if tokens else 0.0


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the others lie below, interpolated between two of them."""
    ordered = sorted(values)
    place = round(share * (len(ordered) - 1), 9)  # 1 − .9 is not .1 in binary
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))
