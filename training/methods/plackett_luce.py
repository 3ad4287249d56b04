"""Reward models of rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Ranking
from verifiers.manifest import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from training.run import Run


class PlackettLuce(Method):
    """Rank replies: −Σ_i (R_i − log Σ_(j ≥ i) exp R_j), the best one first.

    Plackett, The Analysis of Permutations, 1975; Luce, 1959. Every place is a choice among the
    replies that are left: the denominator leaves out those before it. (The survey's runs over
    all.) Of two replies it is `bradley_terry`. Served by the verifier `outcome_reward`.
    """

    type: Literal["plackett_luce"] = "plackett_luce"
    paper: ClassVar[str] = "Plackett, The Analysis of Permutations, 1975"
    family: ClassVar[Family] = "reward model"
    rows: ClassVar[RowClass] = Ranking
    makes: ClassVar[Kind] = "orm"

    learning_rate: float = Field(1e-5, gt=0, description="Of AdamW; 10 times that for LoRA.")
    centring: float = Field(
        0.01, ge=0, description="η of (mean reward of a row)² · 4, as in `bradley_terry`."
    )

    def train(self, run: Run) -> None:
        """Train, and publish."""
        from transformers import TrainingArguments

        from training.encoding import Encoded
        from training.reward_models.reward_head import (
            TokenRewards,
            at_last,
            load_reward_model,
            publish_reward_model,
            read_conversation,
        )
        from training.trainer import LossTrainer

        read = read_conversation(run.base.path, run.encoder)
        model = load_reward_model(run)
        rewards = TokenRewards(model)

        def loss(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            return self._loss(at_last(rewards(model, batch), batch), batch["ranked"])

        def collate(rows: Sequence[Sequence[Encoded]]) -> dict[str, Tensor]:
            return ranking_batch(rows, run.encoder.pad_id)

        trainer = LossTrainer(
            loss=loss,
            collate=collate,
            rows=[[read(row.prompt, reply) for reply in row.replies] for row in run.rows],
            model=model,
            args=run.arguments(TrainingArguments),
        )
        run.fit(trainer)
        publish_reward_model(run, model)

    def _loss(self, rewards: Tensor, ranked: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Take (replies of all rows,) rewards and (rows, replies) of which there are any."""
        from training.losses.reward import plackett_luce

        table = rewards.new_zeros(ranked.shape).masked_scatter(ranked, rewards)
        sizes = ranked.sum(-1)
        centre = 4 * (table.sum(-1) / sizes) ** 2
        last = table.gather(-1, sizes[:, None] - 1)[:, 0]
        numbers = {
            "accuracy": _in_order(table.detach(), ranked),
            "margin": (table[:, 0] - last).detach().mean(),
        }
        return plackett_luce(table, ranked) + self.centring * centre.mean(), numbers


def ranking_batch(rows: Sequence[Sequence[Any]], pad_id: int) -> dict[str, Any]:
    """Pad all replies of all rows into one batch; `ranked`, (rows, replies), says whose they are.

    `input_ids`, `attention_mask`: (replies of all rows, tokens); `last`: where each one ends.
    """
    import torch

    from training.encoding import padded

    replies = [reply.ids for row in rows for reply in row]
    ids = padded(replies, pad_id)
    return {
        "input_ids": ids,
        "attention_mask": padded([(1,) * len(reply) for reply in replies], 0),
        "last": (torch.arange(ids.shape[1]) * (ids != pad_id)).argmax(-1),
        "ranked": padded([(1,) * len(row) for row in rows], 0).bool(),
    }


def _in_order(rewards: Tensor, ranked: Tensor) -> Tensor:
    """Return the share of pairs, of all rows, whose better reply has the higher reward."""
    both = (ranked[:, :, None] & ranked[:, None, :]).triu(1)
    return (rewards[:, :, None] > rewards[:, None, :])[both].float().mean()
