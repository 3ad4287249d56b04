"""Direct preference optimisation."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Pair

if TYPE_CHECKING:
    from training.preference.pairs import EncodedPair
    from training.run import Run


class DPO(Method):
    """Prefer the chosen reply: −log σ(β [log π/π_ref(y+) − log π/π_ref(y−)]).

    DPO, 2305.18290, by TRL. With `perplexity_percentile` pairs are left out whose chosen reply is
    improbable under the reference: so far from what the policy says, the log-ratio teaches it form
    rather than preference (the survey takes the 95th percentile).
    """

    type: Literal["dpo"] = "dpo"
    paper: ClassVar[str] = "Rafailov et al., Direct Preference Optimization, 2305.18290"
    family: ClassVar[Family] = "preference"
    rows: ClassVar[RowClass] = Pair

    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW; 10 times that for LoRA.")
    beta: float = Field(0.1, gt=0, description="β: how strongly the reference holds the policy.")
    perplexity_percentile: int | None = Field(
        None,
        ge=1,
        le=99,
        description="Leave out pairs whose chosen reply has a perplexity above this percentile.",
    )

    def train(self, run: Run) -> None:
        """Train by TRL."""
        from training.preference.encoded_trainers import train_dpo
        from training.preference.pairs import encode_pair, perplexities

        pairs = [encode_pair(run.encoder, row) for row in run.rows]
        if self.perplexity_percentile is None:
            train_dpo(run, pairs, loss="sigmoid", beta=self.beta)
            return
        reference = run.reference()
        found = perplexities(
            reference,
            run.encoder,
            [pair.chosen for pair in pairs],
            run.recipe.training.batch_size,
        )
        kept = probable(pairs, found, self.perplexity_percentile)
        metrics = {"pairs": len(kept), "improbable_pairs": len(pairs) - len(kept)}
        train_dpo(run, kept, loss="sigmoid", beta=self.beta, reference=reference, metrics=metrics)


def probable(
    pairs: list[EncodedPair], perplexities: list[float], percentile: int
) -> list[EncodedPair]:
    """Return the pairs whose perplexity is not above the percentile."""
    if len(pairs) < 2:
        return pairs
    bound = statistics.quantiles(perplexities, n=100, method="inclusive")[percentile - 1]
    return [pair for pair, found in zip(pairs, perplexities, strict=True) if found <= bound]
