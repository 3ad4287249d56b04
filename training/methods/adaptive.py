"""Verifiers that are refitted while the policy that they judge changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from training.base import Family, Method, RowClass, method_classes
from training.data import split_by_problem
from training.reward_models.reply_verifier import ReplyVerifier
from training.rows import Labelled, Prompted
from verifiers.manifest import Kind

if TYPE_CHECKING:
    from training.reward_models.reply_scoring import Measured
    from training.rollouts.base import Rollouts
    from training.run import Run


def _refitted(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    named = method_classes().get(str(value.get("type")))
    if named is None or not issubclass(named, ReplyVerifier):
        raise ValueError(f"`type` {value.get('type')!r} is no verifier of whole replies")
    return named.model_validate(value)


class Adaptive(Method):
    """Draw fresh replies from the policy, have ground truth label them, refit; round by round.

    A reward model that stays as it is while its policy is optimised against it judges replies
    unlike those that it learnt from (Gao et al., 2210.10760); so RLHF in rounds refits it on new
    ones (Llama 2, 2307.09288, section 3.2.1), mixed with the old. The policy is the recipe's
    `teacher`, else its `model`; or whatever the server of `[rollouts]` serves then. Labels are the
    recipe's `[[rewards]]`. In a pipeline, stages of `adaptive` and of policy gradients take turns.

    Round N keeps its replies, log and states in round-N. A share of the problems is never trained
    on: the run's log has the AUC of each round's fresh replies to them before and after its refit
    (`auc_before`, `auc_after`). A fall from one round's `auc_after` to the next one's `auc_before`
    is drift.
    """

    type: Literal["adaptive"] = "adaptive"
    paper: ClassVar[str] = "Touvron et al., Llama 2, 2307.09288"
    family: ClassVar[Family] = "reward model"
    rows: ClassVar[RowClass] = Prompted
    makes: ClassVar[Kind] = "orm"
    on_policy: ClassVar[bool] = True
    rewarded: ClassVar[bool] = True

    learning_rate: float = Field(
        1e-5, gt=0, description="Of AdamW; in place of the refitted method's own."
    )
    method: Annotated[SerializeAsAny[ReplyVerifier], BeforeValidator(_refitted)] = Field(
        {"type": "outcome_reward"},
        validate_default=True,
        description="What is refitted: `outcome_reward` or another method on labels.",
    )
    rounds: int = Field(3, ge=1, le=100, description="Of drawing and refitting.")
    samples: int = Field(8, ge=1, description="Replies to a prompt in a round.")
    temperature: float = Field(0.8, gt=0, description="Of drawing.")
    max_tokens: int = Field(512, ge=1, description="Of a reply.")
    threshold: float = Field(0.5, description="The least reward of a right reply.")
    remembered: int | None = Field(
        None, ge=0, description="Earlier rounds whose replies are mixed in. Default: all."
    )
    begin: Literal["base", "last"] = Field("last", description="What a round trains further.")
    held_out: float = Field(0.2, gt=0, lt=1, description="Share of problems that measure only.")

    def train(self, run: Run) -> None:
        """Go through the rounds, from the newest that has a state to resume from."""
        from accelerate import PartialState

        from training.callbacks import last_whole_state
        from training.rollouts.samples import Drawing, Sampler

        def open_rollouts(stack: ExitStack) -> Rollouts:
            return policy_rollouts(run, stack)

        begun = {
            number
            for number in range(1, self.rounds + 1)
            if last_whole_state(run.directory / f"round-{number}") is not None
        }
        first = max(begun, default=1)
        model = self.method.load(run)
        drawing = Drawing(self.samples, self.max_tokens, self.temperature, self.threshold)
        drawn: dict[int, Sequence[Labelled]] = {}
        with Sampler(run, drawing, open_rollouts) as sampler:
            for number in range(1, self.rounds + 1):
                directory = run.directory / f"round-{number}"
                with PartialState().main_process_first():
                    drawn[number] = sampler.draw(directory, run.rows, step=number - 1)
                if number >= first:
                    # The weights before a round that is resumed are gone.
                    before = number > 1 and number not in begun
                    model, measured = self._round(run, model, drawn, number, measure_before=before)
        calibration = measured.calibration({"method": self.method.name, "rounds": self.rounds})
        self.method.publish(
            run,
            model,
            kind=self.method.makes,
            metrics=measured.metrics,
            calibration=calibration,
        )

    def _round(
        self,
        run: Run,
        model: Any,
        drawn: Mapping[int, Sequence[Labelled]],
        number: int,
        *,
        measure_before: bool,
    ) -> tuple[Any, Measured]:
        """Refit on a round's replies and earlier ones; log what that did."""
        seed = run.recipe.data.seed
        fresh, unseen = split_by_problem(drawn[number], self.held_out, seed)
        numbers = {"right": sum(row.label for row in drawn[number]) / len(drawn[number])}
        if measure_before:
            from training.reward_models.reply_scoring import graded

            before = graded(unseen, self.method.scores(run, model, unseen)).metrics
            numbers |= {f"{k.removeprefix('held_out_')}_before": v for k, v in before.items()}
        first = 1 if self.remembered is None else max(1, number - self.remembered)
        rows = list(fresh)
        for old in range(first, number):
            rows += split_by_problem(drawn[old], self.held_out, seed)[0]
        if self.begin == "base":
            model = self.method.load(run)
        directory = run.directory / f"round-{number}"
        measured = self.method.fit(run, model, rows, unseen, directory)
        after = {f"{k.removeprefix('held_out_')}_after": v for k, v in measured.metrics.items()}
        run.record(number, numbers | after)
        return model, measured


def policy_rollouts(run: Run, stack: ExitStack) -> Rollouts:
    """Open what draws the replies of the policy that is judged."""
    from training.rollouts.base import open_rollouts

    settings = run.recipe.rollouts
    assert settings is not None, "the recipe was validated"
    base = run.base if run.recipe.teacher is None else run.teacher_base
    adapted = base.adapter is not None
    loaded = settings.backend == "model" or (settings.backend == "vllm" and adapted)
    policy = _policy(run) if loaded else None
    rollouts = stack.enter_context(open_rollouts(settings, base.path, run.tokenizer, policy))
    if settings.backend == "vllm" and adapted:
        rollouts.refresh(policy, 0)
    return rollouts


def _policy(run: Run) -> Any:
    return run.reference() if run.recipe.teacher is None else run.teacher()
