"""What replies and tokens are credited with: advantages of policy gradients, without gradients.

Rewards are (prompts, n): n replies to each prompt. Tokens are (rows, places) with a `mask` of the
reply's places, which are consecutive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Scale: TypeAlias = Literal["group", "batch", "none"]
EPSILON = 1e-4
"""Added to a standard deviation before dividing by it, as TRL does."""


def group_relative(rewards: Tensor, scale: Scale = "group") -> Tensor:
    """Return (r − mean) / std within each group (GRPO, 2402.03300).

    `batch` divides by the deviation of all rewards, `none` by nothing (Dr. GRPO, 2503.20783). The
    deviation is the unbiased one; a single reply has none, and is not scaled.
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    if scale == "none" or rewards.shape[-1] == 1:
        return centred
    deviation = rewards.std(-1, keepdim=True) if scale == "group" else rewards.std()
    return centred / (deviation + EPSILON)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Return each reward minus the mean of the other n − 1 (RLOO, 2402.14740)."""
    n = rewards.shape[-1]
    others = (rewards.sum(-1, keepdim=True) - rewards) / (n - 1)
    return rewards - others


def step_relative(
    rewards: Sequence[Sequence[float]],
    ends: Sequence[Sequence[int]],
    samples: int,
    tokens: Sequence[int],
) -> list[list[float]]:
    """Return each token's advantage under process supervision (GRPO, 2402.03300, section 4.1.3).

    The rewards of all steps of a group are normalised together; a token's advantage is the sum of
    the normalised rewards of the steps that end at it or later.

    Args:
        rewards: of each reply, one for each of its steps.
        ends: of each reply, how many tokens it takes to the end of each step.
        samples: n; replies of a prompt stand together.
        tokens: of each reply, how many it has.
    """
    advantages: list[list[float]] = []
    for first in range(0, len(rewards), samples):
        group = slice(first, first + samples)
        pool = torch.tensor([each for reply in rewards[group] for each in reply])
        spread = float(pool.std()) if len(pool) > 1 else 0.0
        mean = float(pool.mean()) if len(pool) else 0.0
        for steps, places, length in zip(rewards[group], ends[group], tokens[group], strict=True):
            scaled = [(step - mean) / (spread + EPSILON) for step in steps]
            pairs = list(zip(scaled, places, strict=True))
            advantages.append(
                [sum(each for each, end in pairs if end > token) for token in range(length)]
            )
    return advantages


def shaped_rewards(
    rewards: Tensor, logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor, kl: float
) -> Tensor:
    """Return each token's reward: −β (log π_old − log π_ref), and the reply's at its last token.

    InstructGPT, 2203.02155. `rewards` is (rows,), `logprobs` of the weights that drew; (rows,
    places) are returned.
    """
    shaped = -kl * (logprobs - reference_logprobs) * mask
    return shaped + rewards[:, None] * last_places(mask)


def last_places(mask: Tensor) -> Tensor:
    """Return which place is the last of each row's reply; a row without a reply has none."""
    after = mask.flip(-1).cumsum(-1).flip(-1)
    return mask & (after == 1)


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, discount: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return advantages A_t = Σ_l (γλ)^l δ_{t+l} and returns A_t + V_t (GAE, 1506.02438).

    δ_t = r_t + γ V_{t+1} − V_t, where the state after the last token is worth 0. `values` at a
    place is of the state that its token was drawn in. λ = 1 gives the whole return minus V_t.
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    after = torch.zeros_like(values[:, 0])
    worth = torch.zeros_like(after)
    for place in range(values.shape[1] - 1, -1, -1):
        here = mask[:, place]
        surprise = rewards[:, place] + discount * worth - values[:, place]
        # Behind the reply's end nothing is credited, and nothing flows back from there.
        after = torch.where(here, surprise + discount * lam * after, torch.zeros_like(after))
        worth = torch.where(here, values[:, place], torch.zeros_like(worth))
        advantages[:, place] = after
    return advantages, (advantages + values) * mask


def rewards_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of a reply's rewards from each token on."""
    return (rewards * mask).flip(-1).cumsum(-1).flip(-1) * mask


def whitened(advantages: Tensor, mask: Tensor) -> Tensor:
    """Return advantages with mean 0 and deviation 1 over all tokens (REINFORCE++, 2501.03262)."""
    inside = advantages[mask]
    if inside.numel() < 2:
        return advantages * mask
    return (advantages - inside.mean()) / (inside.std() + EPSILON) * mask
