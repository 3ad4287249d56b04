"""Reward models of preferences between two replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Pair
from verifiers.manifest import Kind

if TYPE_CHECKING:
    from training.run import Run


class BradleyTerry(Method):
    """Prefer the chosen reply: −log σ(r⁺ − r⁻ − m) + η (r⁺ + r⁻)², by TRL.

    Bradley and Terry, 1952; as reward models of replies: InstructGPT, 2203.02155. The margin m is
    the row's own (Llama 2, 2307.09288), 0 by default; η keeps rewards near zero (2312.09244), where
    the verifier `outcome_reward`, which serves it, turns them into probabilities. The text is that
    verifier's too, token for token: hence TRL is given ids. A pair's `prefix` begins both replies.
    """

    type: Literal["bradley_terry"] = "bradley_terry"
    paper: ClassVar[str] = (
        "Ouyang et al., Training Language Models to Follow Instructions, 2203.02155"
    )
    family: ClassVar[Family] = "reward model"
    rows: ClassVar[RowClass] = Pair
    makes: ClassVar[Kind] = "orm"

    learning_rate: float = Field(1e-5, gt=0, description="Of AdamW; 10 times that for LoRA.")
    centring: float = Field(0.01, ge=0, description="η: how strongly rewards are held near zero.")

    def train(self, run: Run) -> None:
        """Train by TRL, and publish."""
        from datasets import Dataset
        from trl import RewardConfig, RewardTrainer

        from training.reward_models.reward_head import (
            load_reward_model,
            publish_reward_model,
            read_conversation,
        )

        read = read_conversation(run.base.path, run.encoder)
        model = load_reward_model(run)
        trainer = RewardTrainer(
            model=model,
            args=run.arguments(
                RewardConfig, max_length=None, center_rewards_coefficient=self.centring
            ),
            train_dataset=Dataset.from_list(
                [
                    {
                        "chosen_ids": read(row.prompt, row.prefix + row.chosen).ids,
                        "rejected_ids": read(row.prompt, row.prefix + row.rejected).ids,
                        "margin": row.margin or 0.0,
                    }
                    for row in run.rows
                ]
            ),
            processing_class=run.tokenizer,
        )
        run.fit(trainer)
        publish_reward_model(run, model)
