"""Where the steps of drawn replies end, in tokens, and what their tokens are credited with."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from torch import Tensor

from training.losses.advantages import step_relative
from training.on_policy.rounds import Round
from training.run import RunError
from verifiers.steps import step_ends
from verifiers.types import Candidate

_PARTS = 4
"""Characters that tokens may have left out before one that is found."""


def step_advantages(drawn: Round, mark: str) -> Tensor:
    """Return process supervision's advantages of a round, (rows, places).

    Raises:
        RunError: no reward scores steps, or it cuts replies otherwise.
    """
    scores = [reward.steps for reward in drawn.rewards]
    if not any(scores):
        raise RunError("no reward scores steps: process supervision needs a process verifier")
    ends = [
        ends_in_tokens(reply, mark, len(steps)) if steps else []
        for reply, steps in zip(drawn.replies, scores, strict=True)
    ]
    tokens = [len(reply.token_ids) for reply in drawn.replies]
    of_tokens = step_relative(scores, ends, drawn.samples, tokens)
    mask = drawn.mask
    advantages = mask.new_zeros(mask.shape, dtype=drawn.batch["old_logprobs"].dtype)
    advantages[mask] = advantages.new_tensor([each for reply in of_tokens for each in reply])
    return advantages


def ends_in_tokens(reply: Candidate, mark: str, steps: int) -> list[int]:
    """Return how many tokens it takes to the end of each step; the last takes the reply's end too.

    Raises:
        RunError: the reply has another number of steps, or its tokens' texts are not known.
    """
    ends = step_ends(reply.text, mark, steps)
    if len(ends) != steps:
        raise RunError(f"{steps} steps were scored of a reply that {mark!r} cuts into {len(ends)}")
    if len(reply.logprobs) != len(reply.token_ids):
        raise RunError("the engine does not tell the texts of a reply's tokens")
    reached = _reached([entry.token for entry in reply.logprobs], reply.text)
    places = [min(bisect_left(reached, end) + 1, len(reached)) for end in ends]
    return [*places[:-1], len(reply.token_ids)]


def _reached(tokens: Sequence[str], text: str) -> list[int]:
    """Return how much of the text there is after each token.

    A token that is not found where the text goes on is a special one, which the text leaves out, or
    a part of a character, which comes with the next that is found.
    """
    reached, place = [], 0
    for token in tokens:
        found = text.find(token, place, place + len(token) + _PARTS)
        place = place if found < 0 else found + len(token)
        reached.append(place)
    return reached
