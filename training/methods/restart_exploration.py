"""Restart and explore: reinforcement learning that begins amid earlier replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from strategies.chain_of_action_thought import Action
from training.base import Family, Method, RowClass, method_classes
from training.on_policy.method import PolicyGradient
from training.rows import Labelled, Prompted
from verifiers.steps import BLANK_LINE

if TYPE_CHECKING:
    from training.rollouts.base import Rollouts
    from training.run import Run

ALGORITHMS = ("ppo", "grpo", "rloo", "reinforce", "a2c")
PUBLISHED: Mapping[str, Any] = {
    "type": "ppo",
    "epochs": 1,
    "steps": 8,
    "kl": 0.0,
    "temperature": 0.6,
    "max_tokens": 3072,
}


def _algorithm(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if value.get("type") not in ALGORITHMS:
        raise ValueError(f"`type` {value.get('type')!r} is none of {', '.join(ALGORITHMS)}")
    return method_classes()[str(value["type"])].model_validate(value)


class RestartExploration(Method):
    """Learn to mend what was begun: some prompts go on with an earlier own reply, to reflect on it.

    Satori's second stage, after a format tuning by `sft` has taught the model the marks that the
    strategy `chain_of_action_thought` with policy "model" puts in. Before training, `earlier`
    replies to each prompt are drawn and judged. With the probability `restarts` a prompt of a round
    begins with one of them, a right or a wrong one, cut behind one of its steps, and `cue`. The
    reward of what follows has a bonus if it mends a wrong reply, and the same as a penalty if it
    spoils a right one. Right is what has a reward of `threshold`.

    The paper's algorithm is PPO, its rewards a rule and a model of preferences: two `[[rewards]]`.
    The share of restarts is ours, the paper has a fixed set; so are restarts from any step, and
    from as many right replies as wrong ones. A round of its iterated self-improvement is a stage
    of a pipeline, whose earlier replies are then those of the stage before.
    """

    type: Literal["restart_exploration"] = "restart_exploration"
    paper: ClassVar[str] = (
        "Shen et al., Satori: Reinforcement Learning with Chain-of-Action-Thought, 2502.02508"
    )
    family: ClassVar[Family] = "policy gradient"
    rows: ClassVar[RowClass] = Prompted
    on_policy: ClassVar[bool] = True
    rewarded: ClassVar[bool] = True

    learning_rate: float = Field(
        2e-7, gt=0, description="Of AdamW; in place of the algorithm's own."
    )
    algorithm: Annotated[SerializeAsAny[PolicyGradient], BeforeValidator(_algorithm)] = Field(
        PUBLISHED,
        validate_default=True,
        description=f"What it learns by: {', '.join(ALGORITHMS)}, with its parameters.",
    )
    earlier: int = Field(8, ge=1, description="Replies to each prompt to restart from.")
    restarts: float = Field(0.5, ge=0, le=1, description="The share of prompts that restart.")
    bonus: float = Field(0.5, ge=0, description="β, of the reflection bonus.")
    threshold: float = Field(0.5, description="The least reward of a right reply.")
    cue: str = Field(f"<|{Action.REFLECT}|>", min_length=1, description="Behind what was begun.")
    step_mark: str = Field(BLANK_LINE, min_length=1, description="What ends a step.")

    def train(self, run: Run) -> None:
        """Draw the earlier replies, unless they are there, and train on rounds with restarts."""
        from training.on_policy.restarts import RestartRounds, cut_at_steps
        from training.on_policy.trainer import train_on_policy

        policy = run.policy()
        drawn = [row for row in self._earlier(run, policy) if self._fits(run, row)]
        right = sum(row.label for row in drawn)
        run.record(0, {"earlier_right": right, "earlier_wrong": len(drawn) - right})
        train_on_policy(
            run,
            self.algorithm,
            model=policy,
            make_rounds=partial(
                RestartRounds,
                restarts=cut_at_steps(drawn, self.step_mark, self.cue),
                share=self.restarts,
                bonus=self.bonus,
                threshold=self.threshold,
            ),
        )

    def _earlier(self, run: Run, policy: Any) -> Sequence[Labelled]:
        from accelerate import PartialState

        from training.rollouts.samples import Drawing, Sampler

        def open_rollouts(stack: ExitStack) -> Rollouts:
            return stack.enter_context(run.rollouts(policy))

        algorithm = self.algorithm
        drawing = Drawing(self.earlier, algorithm.max_tokens, algorithm.temperature, self.threshold)
        with (
            Sampler(run, drawing, open_rollouts) as sampler,
            PartialState().main_process_first(),
        ):
            return sampler.draw(run.directory, run.rows)

    def _fits(self, run: Run, row: Labelled) -> bool:
        """Whether something can be said behind the whole of it."""
        marks = len(run.encoder.text(self.step_mark + self.cue))
        return run.encoder.length(row) + marks < run.recipe.training.max_length
