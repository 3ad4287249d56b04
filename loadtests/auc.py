"""How well scores tell right replies from wrong ones to the same question.

The area under the ROC curve within questions is the share of pairs, a right and a wrong reply to
one question, in which the right one has the higher score: `cluster_bootstrap(…, pooled=True)` over
`pair_outcomes` of the questions that have both.
"""

from __future__ import annotations

from collections.abc import Sequence

UNREAD = -1.0
"""Below every score: where a verifier abstains, the reply is the last choice."""


def pair_outcomes(scores: Sequence[float | None], correct: Sequence[bool]) -> list[float]:
    """Compare every right reply with every wrong one: 1 won, 0.5 a tie, 0 lost.

    None among the scores: the verifier abstained.
    """
    known = [UNREAD if score is None else score for score in scores]
    right = [score for score, good in zip(known, correct, strict=True) if good]
    wrong = [score for score, good in zip(known, correct, strict=True) if not good]
    return [(one > other) + (one == other) / 2 for one in right for other in wrong]
