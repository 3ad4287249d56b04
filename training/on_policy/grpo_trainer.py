"""Outcome GRPO by TRL's trainer, with our rollouts and rewards."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.methods.grpo import GRPO
from training.on_policy.trainer import round_prompts
from training.rollouts.base import policy_sampling
from training.rollouts.grpo import ROW, RolloutFunction, reward_function, rollout_function
from training.run import Run

with warnings.catch_warnings():
    # TRL imports vLLM, warns of its version, and is not the one that uses it here.
    warnings.simplefilter("ignore")
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer.utils import add_fused_lm_head

NAMES = {
    "completions/mean_length": "reply_tokens",
    "completions/clipped_ratio": "cut",
    "clip_ratio/region_mean": "clip_fraction",
}
"""What TRL calls what `OnPolicyTrainer` logs under other names."""


class CommonNames(TrainerCallback):
    """Logs under the names of our own loop too, and what the rewards said."""

    def __init__(self) -> None:
        self._told: dict[str, list[float]] = {}

    def hear(self, told: Mapping[str, float]) -> None:
        """Keep what the rewards say until the next line of the log."""
        for name, value in told.items():
            self._told.setdefault(name, []).append(value)

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Add the names."""
        if logs is None:
            return
        logs |= {ours: logs[theirs] for theirs, ours in NAMES.items() if theirs in logs}
        logs |= {name: sum(said) / len(said) for name, said in self._told.items()}
        self._told.clear()


def train_by_trl(run: Run, method: GRPO) -> None:
    """Train, and publish.

    TRL's sampler begins anew in a resumed run: behind the first epoch the prompts then come in
    another order than they would have. Our own loop goes on exactly.

    Raises:
        RunError: the sizes of batches do not fit the method.
        BadRequest: a row lacks what a reward needs.
    """
    from datasets import Dataset

    arguments = trl_arguments(run, method)
    round_prompts(arguments, method)
    policy = run.policy()
    names = CommonNames()
    rows = [
        {"prompt": [message.model_dump() for message in row.prompt], ROW: place}
        for place, row in enumerate(run.rows)
    ]
    with run.rollouts(policy) as rollouts, run.rewards(rollouts) as rewards:
        rewards.check(run.rows)
        sampling = policy_sampling(
            method.max_tokens,
            method.temperature,
            seed=arguments.seed,
            logprobs=rewards.logprobs or 0,
        )
        trainer = GRPOTrainer(
            model=policy,
            reward_funcs=reward_function(rewards, run.rows, names.hear),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=run.tokenizer,
            rollout_func=_timed(rollout_function(rollouts, sampling), names),
            callbacks=[names],
        )
        if method.compared and _other_reference(run):
            reference = run.reference()
            add_fused_lm_head(reference, temperature=method.temperature)
            trainer.ref_model = trainer.accelerator.prepare_model(reference, evaluation_mode=True)
        run.fit(trainer)
    run.publish(trainer.accelerator.unwrap_model(trainer.model))


def _other_reference(run: Run) -> bool:
    """Whether the reference is not the base's directory, which is what TRL itself takes."""
    merged = run.base.adapter is not None and run.recipe.adapter is None
    return merged or run.recipe.reference is not None


def _timed(draw: RolloutFunction, names: CommonNames) -> RolloutFunction:
    """Tell how long drawing takes, new weights included."""

    def timed(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        begun = time.perf_counter()
        drawn = draw(prompts, trainer)
        names.hear({"generation_seconds": time.perf_counter() - begun})
        return drawn

    return timed


def trl_arguments(run: Run, method: GRPO) -> GRPOConfig:
    """Say the method in TRL's words."""
    accumulate = run.recipe.training.accumulate
    arguments: GRPOConfig = run.arguments(
        GRPOConfig,
        num_generations=method.samples,
        max_completion_length=method.max_tokens,
        temperature=method.temperature,
        beta=method.kl,
        epsilon=method.clip,
        epsilon_high=method.high,
        num_iterations=method.updates,
        steps_per_generation=accumulate * method.steps,
        loss_type=method.loss_type,
        scale_rewards=method.scale_rewards,
        importance_sampling_level=method.importance,
        mask_truncated_completions=method.mask_truncated,
        # TRL would multiply the KL by the ratio (DeepSeek-V3.2), which GRPO does not.
        use_bias_correction_kl=False,
        disable_dropout=True,
    )
    # A state in the middle of a round would need the weights that the round was drawn with.
    steps = method.updates * method.steps
    arguments.save_steps = math.ceil(arguments.save_steps / steps) * steps
    return arguments
