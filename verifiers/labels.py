"""Probabilities of labels: what a model would say next, read from one token's alternatives."""

from __future__ import annotations

import math
from collections.abc import Sequence

from verifiers.types import Candidate

ALTERNATIVES = 20
"""Likeliest tokens asked for; engines give no more, so what is below the last counts as 0."""


def label_masses(replies: Sequence[Candidate], labels: Sequence[str]) -> list[float]:
    """Return the probability of each label as the first token of the first reply.

    All tokens that are the label but for case and white space around it count. Without a reply, or
    one without alternatives, everything is 0: what asked could not be paid or not be read.
    """
    masses = dict.fromkeys(labels, 0.0)
    if replies and replies[0].logprobs:
        by_text = {label.casefold(): label for label in labels}
        for token, logprob in replies[0].logprobs[0].top:
            if label := by_text.get(token.strip().casefold()):
                masses[label] += math.exp(logprob)
    return [masses[label] for label in labels]
