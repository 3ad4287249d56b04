"""Losses of OREO (2412.16145): a policy and a value function that are consistent with each other.

The soft Bellman equation holds between any two states of a reply, so that from state s_t to the end
V(s_t) = R_t − β Σ_(i≥t) log π/π_ref(a_i | s_i), where R_t is the reward that is still to come.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Decisions(NamedTuple):
    """Where a reply's actions begin: at each of its tokens, or at the first token of each step."""

    starts: Tensor
    """(rows, tokens), true where an action begins."""
    ends: Tensor
    """(rows, tokens): the place after the action that begins here; counts where one does."""


class OREOLosses(NamedTuple):
    """Means over a reply's actions, then over replies."""

    policy: Tensor
    value: Tensor


def oreo_losses(
    log_ratios: Tensor, values: Tensor, rewards: Tensor, decisions: Decisions, beta: float
) -> OREOLosses:
    """Return the squared residuals of the equation, each with the gradient that the paper gives it.

    value:  (V(s_t) − R_t + β sg[Σ_(i≥t) log π/π_ref])²
    policy: (sg[V(s_t)] − R_t + β log π/π_ref(a_t) + sg[β Σ_(i>t) log π/π_ref])², equation 9: the
    tail is part of the residual, but the action at t answers for itself alone.

    Args:
        log_ratios: log π/π_ref of each token, (rows, tokens); 0 outside of replies.
        values: V of the state before each token, (rows, tokens).
        rewards: at the end of each reply, (rows,).
        decisions: where actions begin.
        beta: β.
    """
    to_come = log_ratios.flip(-1).cumsum(-1).flip(-1)
    after = torch.cat([to_come, torch.zeros_like(to_come[:, :1])], dim=-1)
    action = to_come - after.gather(-1, decisions.ends)
    tail = (to_come - action).detach()
    due = rewards[:, None]
    policy = values.detach() - due + beta * (action + tail)
    value = values - due + beta * to_come.detach()
    return OREOLosses(*(row_mean(each**2, decisions.starts) for each in (policy, value)))


def divergence(logits: Tensor, reference_logits: Tensor, mask: Tensor) -> Tensor:
    """Return KL(π ‖ π_ref) over the whole vocabulary: mean over a reply's tokens, then replies."""
    logprobs, reference = logits.log_softmax(-1), reference_logits.log_softmax(-1)
    each = (logprobs.exp() * (logprobs - reference)).sum(-1)
    return row_mean(each, mask)


def row_mean(numbers: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over rows of the mean of what the mask has of each."""
    return ((numbers * mask).sum(-1) / mask.sum(-1)).mean()
