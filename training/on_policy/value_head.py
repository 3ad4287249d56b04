"""A policy with a value head: one network, as in PPO's paper, so that a state costs one pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.losses.policy_gradient import chosen_logprobs, token_entropy

WEIGHTS = "trained.pt"
"""A file in a state's directory: what is trained of policy and head."""


class Valued(NamedTuple):
    """What the network says at each token, (rows, tokens, …)."""

    logits: Tensor
    values: Tensor


class ReplyValues(NamedTuple):
    """What it says of each reply token, (rows, tokens − 1): place t is of token t + 1."""

    logprobs: Tensor
    values: Tensor
    entropy: Tensor


class PolicyWithValue(nn.Module):
    """Puts a linear value head on the last hidden state of a policy.

    The head begins at 0: the first advantages are then the returns themselves.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy
        self.config = policy.config
        self.head = nn.Linear(policy.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Valued:
        """Return logits and values of every token."""
        outputs = self.policy(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        hidden = outputs.hidden_states[-1].to(self.head.weight.dtype)
        return Valued(outputs.logits, self.head(hidden).squeeze(-1))

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Trade time for memory in the policy."""
        self.policy.gradient_checkpointing_enable(**options)

    def save(self, directory: Path) -> None:
        """Write what is trained, to resume from."""
        trained = {name: each for name, each in self.named_parameters() if each.requires_grad}
        torch.save(trained, directory / WEIGHTS)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote."""
        trained = torch.load(directory / WEIGHTS, map_location="cpu", weights_only=True)
        found = self.load_state_dict(trained, strict=False)
        if found.unexpected_keys:
            raise ValueError(f"{directory / WEIGHTS} is of another model")


def reply_values(model: Any, batch: Mapping[str, Tensor], temperature: float) -> ReplyValues:
    """Return log-probability, value and entropy at each reply token; 0 where there is none.

    The value is that of the state that the token was drawn in.
    """
    outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    mask = batch["reply_mask"][:, 1:]
    logits = outputs.logits[:, :-1].float() / temperature
    logprobs = chosen_logprobs(logits, batch["input_ids"][:, 1:])
    values = outputs.values[:, :-1].float()
    return ReplyValues(logprobs * mask, values * mask, token_entropy(logits) * mask)
