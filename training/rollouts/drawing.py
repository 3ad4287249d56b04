"""Draw tokens row by row inside transformers' `generate`, and remember how likely they were."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from verifiers.types import Sampling


class Drawer(LogitsProcessor):
    """Chooses each row's next token and leaves no other to `generate`, which is greedy.

    So a row has its own seed and does not hang on the others of its batch; torch's global
    generator, which training uses, is not touched; and of the scores, (rows, vocabulary) at each
    place, only what is asked for is kept.
    """

    def __init__(
        self,
        sampling: Sampling,
        seeds: Sequence[int | None],
        defaults: Mapping[str, float],
        device: torch.device,
    ) -> None:
        """`defaults` are the model's own, for what `sampling` leaves open; one seed for a row."""
        temperature = _settled(sampling.temperature, defaults, "temperature", 1.0)
        self._greedy = temperature == 0
        self._warpers = LogitsProcessorList()
        if not self._greedy and temperature != 1:
            self._warpers.append(TemperatureLogitsWarper(temperature))
        if (top_k := _settled(sampling.top_k, defaults, "top_k", 0)) > 0:
            self._warpers.append(TopKLogitsWarper(int(top_k)))
        if (top_p := _settled(sampling.top_p, defaults, "top_p", 1.0)) < 1:
            self._warpers.append(TopPLogitsWarper(top_p))
        if (min_p := _settled(sampling.min_p, defaults, "min_p", 0.0)) > 0:
            self._warpers.append(MinPLogitsWarper(min_p))
        self._sources = [random.Random(seed) for seed in seeds]
        self._top = sampling.logprobs or 0
        self._device = device
        self.tokens: list[torch.Tensor] = []
        """For each place the rows' tokens, (rows,)."""
        self.logprobs: list[torch.Tensor] = []
        """Their natural-log probabilities at temperature 1, (rows,)."""
        self.likeliest: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Log-probabilities and ids of the likeliest, (rows, k) each."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Take (rows, vocabulary) scores; return -inf but for the token chosen in each row."""
        logprobs = scores.float().log_softmax(-1)
        chosen = self._choose(input_ids, logprobs)
        self.tokens.append(chosen.cpu())
        self.logprobs.append(logprobs.gather(1, chosen[:, None])[:, 0].cpu())
        if self._top:
            values, ids = logprobs.topk(self._top, dim=-1)
            self.likeliest.append((values.cpu(), ids.cpu()))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def _choose(self, input_ids: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
        if self._greedy:
            return logprobs.argmax(-1)
        # The inverse of the distribution function, at one uniform number for each row.
        weights = self._warpers(input_ids, logprobs).double().softmax(-1).cumsum(-1)
        drawn = torch.tensor(
            [source.random() for source in self._sources],
            dtype=weights.dtype,
            device=self._device,
        )
        return torch.searchsorted(weights, drawn[:, None] * weights[:, -1:], right=True)[:, 0]


def _settled(
    asked: float | None, defaults: Mapping[str, float], name: str, otherwise: float
) -> float:
    return defaults.get(name, otherwise) if asked is None else asked
