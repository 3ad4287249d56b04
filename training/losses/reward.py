"""Losses of reward models and verifiers, as functions of what the models say.

Every one is a mean over the rows of its batch, and never below zero.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def bradley_terry(
    chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, centring: float = 0.0
) -> Tensor:
    """Return mean(−log σ(r⁺ − r⁻ − m) + η (r⁺ + r⁻)²).

    Bradley and Terry, 1952; the margin m: Llama 2, 2307.09288; η, which keeps rewards near zero, as
    the first term knows their difference alone: 2312.09244.

    Args:
        chosen: r⁺, (rows,).
        rejected: r⁻, (rows,).
        margin: m, by how much r⁺ should be above r⁻.
        centring: η.
    """
    preference = -logsigmoid(chosen - rejected - margin)
    return (preference + centring * (chosen + rejected) ** 2).mean()


def plackett_luce(rewards: Tensor, ranked: Tensor) -> Tensor:
    """Return mean over rows of −Σ_i (R_i − log Σ_{j ≥ i} exp R_j).

    Plackett, 1975; Luce, 1959: the best is drawn first, then the best of what is left. With j over
    all replies, as it is sometimes printed, this would be no distribution over rankings. Of two
    replies it is Bradley-Terry.

    Args:
        rewards: R, (rows, replies), best first.
        ranked: (rows, replies), false where a row has no such reply any more.
    """
    known = rewards.masked_fill(~ranked, -torch.inf)
    left = known.flip(-1).logcumsumexp(-1).flip(-1)
    # Where there is no reply both are −∞: their difference must not be formed.
    terms = torch.where(ranked, left, 0.0) - torch.where(ranked, rewards, 0.0)
    return terms.sum(-1).mean()


def outcome(log_odds: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return mean(w · −(y log σ(z) + (1 − y) log(1 − σ(z)))).

    Cobbe et al., 2110.14168. With z = β log(π(reply) / π_ref(reply)), the log-ratio summed over the
    reply's tokens and not divided by their number, it is equation 5 of Free Process Rewards,
    2412.01981. All are of one shape; `labels` y are in [0, 1], `weights` w 1 by default.
    """
    return binary_cross_entropy_with_logits(log_odds, labels, weights)


def labelled_token(
    good: Tensor, bad: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return mean(w · −(y log p(good) + (1 − y) log p(bad))): next-token prediction of a label.

    Over the whole vocabulary, so that the labels take all of the probability, not only their share
    of what is theirs. Generative verifiers, 2408.15240; soft labels as in Math-Shepherd,
    2312.08935.

    Args:
        good: log p of the label token of right ones, any shape.
        bad: log p of that of wrong ones.
        labels: y in [0, 1].
        weights: w; default 1.
    """
    losses = -(labels * good + (1 - labels) * bad)
    return (losses if weights is None else losses * weights).mean()
