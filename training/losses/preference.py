"""Losses of preferences, one number for each pair, as functions of log-probabilities of replies.

A margin is how much more the policy has come to like the chosen reply than the rejected one:
log π(y+)/π_ref(y+) − log π(y−)/π_ref(y−). TRL has the losses of DPO, IPO and KTO in trainers that
take token ids. Its experimental trainers of ORPO, CPO and SimPO tokenise texts by themselves, so
that the model would learn to end a turn twice: these three are here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_CERTAIN = -1e-6
"""The log-probability above which a reply counts as certain: certainty has no odds."""


def dpo_loss(margin: Tensor, beta: float) -> Tensor:
    """Return −log σ(β · margin): equation 7 of DPO, 2305.18290."""
    return -logsigmoid(beta * margin)


def ipo_loss(margin: Tensor, beta: float) -> Tensor:
    """Return (margin − 1 / 2β)²: equation 17 of IPO, 2310.12036, which calls β τ."""
    return (margin - 1 / (2 * beta)) ** 2


def cpo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Return −log σ(β log π(y+)/π(y−)): equation 3 of CPO, 2401.08417, without its likelihood term.

    Takes whole replies' log-probabilities.
    """
    return -logsigmoid(beta * (chosen - rejected))


def simpo_loss(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """Return −log σ(β (chosen − rejected) − γ): equation 6 of SimPO, 2405.14734.

    Takes log-probabilities divided by the replies' lengths. γ is the margin of rewards, not the
    γ/β of the paper's tables.
    """
    return -logsigmoid(beta * (chosen - rejected) - gamma)


def orpo_loss(chosen: Tensor, rejected: Tensor, weight: float) -> Tensor:
    """Return −log P(y+) − λ log σ(log odds(y+) − log odds(y−)): equations 4 to 7 of 2403.07691.

    odds(y) = P / (1 − P), where log P is the reply's log-probability divided by its length: what
    this takes. The first term is fine-tuning's loss on the chosen reply.
    """
    return -chosen - weight * logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(logprob: Tensor) -> Tensor:
    logprob = logprob.clamp(max=_CERTAIN)
    return logprob - torch.log(-torch.expm1(logprob))
