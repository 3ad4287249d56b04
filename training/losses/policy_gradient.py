"""Losses of policy gradients: pure functions of log-probabilities, (rows, places) each.

A place is of one reply token; `mask` says which places are. log π is the trained policy's, log
π_old that of the weights that drew the reply, log π_ref the frozen reference's. The survey
(2502.21321) prints PPO's ratio with π_ref, which belongs in the KL alone.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Reduction: TypeAlias = Literal["sum", "reply", "token", "constant"]
Importance: TypeAlias = Literal["token", "sequence"]


class Clipped(NamedTuple):
    """PPO's pessimistic surrogate as a loss, and where the clip took the gradient away."""

    loss: Tensor
    clipped: Tensor


def reduce(
    losses: Tensor, mask: Tensor, reduction: Reduction, *, mean_tokens: Tensor, longest: int
) -> Tensor:
    """Make one number of the losses of tokens.

    | reduction | what | where |
    |---|---|---|
    | sum | Σ over a reply's tokens, mean over replies | REINFORCE: ∇ log π(y) is a sum |
    | reply | mean over a reply's tokens, mean over replies | GRPO, 2402.03300 |
    | token | Σ over all tokens ÷ tokens | DAPO, 2503.14476 |
    | constant | Σ over all tokens ÷ (replies × longest) | Dr. GRPO, 2503.20783 |

    Args:
        losses: (rows, places), or (rows, 1) for what is the same at all places.
        mask: (rows, places).
        reduction: as above.
        mean_tokens: for `token`, the tokens of a forward pass of this optimizer step, on average:
            so that gradient accumulation weighs every token alike.
        longest: for `constant`, the tokens that a reply may have.
    """
    sums = (losses * mask).sum(-1)
    match reduction:
        case "sum":
            return sums.mean()
        case "reply":
            return (sums / mask.sum(-1).clamp(min=1)).mean()
        case "token":
            return sums.sum() / mean_tokens.clamp(min=1)
        case "constant":
            return sums.mean() / longest


def reinforce(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Return −A log π of each token (Williams 1992); its gradient is −A ∇ log π."""
    return -advantages * logprobs


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    low: float,
    high: float,
    importance: Importance = "token",
) -> Clipped:
    """Return −min(ρA, clip(ρ, 1 − low, 1 + high) A), ρ = π / π_old (PPO, 1707.06347).

    `high` above `low` is DAPO's clip-higher (2503.14476). Importance `sequence` is GSPO's ratio
    (2507.18071): (π(y) / π_old(y))^(1/|y|), the same at all of a reply's tokens.
    """
    log_ratio = (logprobs - old_logprobs) * mask
    if importance == "sequence":
        log_ratio = log_ratio.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    ratio = log_ratio.exp()
    bound = ratio.clamp(1 - low, 1 + high)
    loss = -torch.minimum(ratio * advantages, bound * advantages)
    clipped = bound * advantages < ratio * advantages
    return Clipped(loss, clipped & mask)


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Estimate KL(π‖π_ref) at each token drawn from π: π_ref/π − log(π_ref/π) − 1, never below 0.

    Schulman, "Approximating KL Divergence", 2020; in GRPO's loss (2402.03300), eq. 4.
    """
    difference = reference_logprobs - logprobs
    return difference.exp() - difference - 1


def clipped_values(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Return ½ max((V − G)², (V_clip − G)²) of each token, V_clip within `clip` of V_old.

    The value loss of PPO's published code; the paper has the plain square.
    """
    bound = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (bound - returns) ** 2)


def minimum_risk(
    sequence_logprobs: Tensor, rewards: Tensor, distinct: Tensor, alpha: float
) -> Tensor:
    """Return the expected risk over the sampled subset S, a mean over prompts (1512.02433).

    Σ_S Q(y) Δ(y) with Q(y) = p(y)^α / Σ_S p(y')^α and Δ = −reward. Q is renormalised over S: the
    survey's Σ p Δ is not, and pushes all samples down where rewards are negative.

    Args:
        sequence_logprobs: log p(y), (prompts, n).
        rewards: (prompts, n).
        distinct: which samples are the first of equal ones: S is a set.
        alpha: the sharpness α.
    """
    scaled = (alpha * sequence_logprobs).masked_fill(~distinct, -torch.inf)
    return -(scaled.softmax(-1) * rewards).sum(-1).mean()


def mixed(logprobs: Tensor, advantages: Tensor, imitated: Tensor, mask: Tensor) -> Tensor:
    """Return MIXER's loss of each reply (1511.06732).

    Cross-entropy on the first T − Δ tokens, the reference's (`imitated`), REINFORCE on the others.
    """
    weights = torch.where(imitated, torch.ones_like(advantages), advantages)
    return -(weights * logprobs * mask).sum(-1)


def token_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the next token's distribution, −Σ p log p: (…, vocabulary) to (…)."""
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def chosen_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Return log p of each id, in float32: (rows, places, vocabulary) and (rows, places)."""
    logits = logits.float()
    return logits.gather(-1, ids[..., None]).squeeze(-1) - logits.logsumexp(-1)
