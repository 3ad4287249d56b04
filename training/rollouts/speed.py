"""How long generation takes in the same GRPO step: our rollouts against TRL's own.

    python -m training.rollouts.speed --completions 16 64 --output speed.json

One run: the same model, LoRA, prompts, lengths and optimizer steps, with TRL's `GRPOTrainer` in
both arms; only who generates differs. Ours is vLLM in this process, and its seconds hold the
refresh: the merging, writing and reading of the new weights. The first step of each arm is left
out, as both warm up in it.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from loadtests.tasks.discovery import task_named
from server.models import SilentProgress, resolve
from training.models import load_tokenizer, quieten
from training.rollouts.base import Rollouts, RolloutSettings, open_rollouts, policy_sampling
from training.rollouts.grpo import rollout_function

GROUP = 8
"""Completions of a prompt, and of a forward pass."""
TASK = "reasoning_gym:chain_sum,size=64"


@dataclass(frozen=True, slots=True)
class Arm:
    """What one way of generating took: means over the steps after the first."""

    generator: str
    completions: int
    seconds: float
    """Of generation, the refresh included."""
    refresh_seconds: float
    tokens: float
    """Generated in a step."""

    @property
    def tokens_per_second(self) -> float:
        """Of generation, the refresh included."""
        return self.tokens / self.seconds


class TimedTrainer(GRPOTrainer):
    """Notes for each step the seconds of its generation, whoever generates, and the tokens."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seconds: list[float] = []
        self.tokens: list[int] = []

    def _generate(self, prompts: list[Any]) -> Any:
        begun = time.perf_counter()
        generated = super()._generate(prompts)
        self.seconds.append(time.perf_counter() - begun)
        self.tokens.append(sum(map(len, generated[1])))
        return generated


class TimedRefresh:
    """Rollouts whose refreshes are timed."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts
        self.seconds: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rollouts, name)

    def refresh(self, model: Any, step: int) -> None:
        """Refresh, and note how long it took."""
        begun = time.perf_counter()
        self._rollouts.refresh(model, step)
        self.seconds.append(time.perf_counter() - begun)


def measure(arguments: argparse.Namespace) -> list[Arm]:
    """Run every arm, TRL's own first."""
    directory = Path(resolve(arguments.model, SilentProgress()).path)
    options = {
        "dtype": arguments.dtype,
        "max_model_len": 1024,
        "kv_cache_gib": arguments.kv_cache_gib,
    }
    settings = RolloutSettings.model_validate({"options": options})
    arms = [
        _run(directory, arguments, completions, "TRL", None, [0.0])
        for completions in arguments.completions
    ]
    with open_rollouts(settings, directory, load_tokenizer(directory)) as rollouts:
        timed: Any = TimedRefresh(rollouts)
        sampling = policy_sampling(arguments.max_tokens, arguments.temperature, seed=0)
        for completions in arguments.completions:
            timed.seconds.clear()
            draw = rollout_function(timed, sampling)
            arms.append(_run(directory, arguments, completions, "ours", draw, timed.seconds))
    return arms


def _run(
    directory: Path,
    arguments: argparse.Namespace,
    completions: int,
    name: str,
    draw: Callable[..., Any] | None,
    refreshes: Sequence[float],
) -> Arm:
    """Train for some steps, and return the means of all but the first."""
    with tempfile.TemporaryDirectory() as output:
        trainer = _trainer(directory, arguments, completions, draw, output)
        trainer.train()
    gc.collect()
    return Arm(
        name,
        completions,
        fmean(trainer.seconds[1:]),
        fmean(refreshes[1:] or refreshes),
        fmean(trainer.tokens[1:]),
    )


def _trainer(
    directory: Path,
    arguments: argparse.Namespace,
    completions: int,
    draw: Callable[..., Any] | None,
    output: str,
) -> TimedTrainer:
    problems = task_named(TASK).problems()
    return TimedTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            directory, dtype=getattr(torch, arguments.dtype), local_files_only=True
        ),
        processing_class=load_tokenizer(directory),
        reward_funcs=_digits,
        rollout_func=draw,
        train_dataset=Dataset.from_list(
            [{"prompt": [dict(message) for message in each.messages]} for each in problems]
        ),
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        args=GRPOConfig(
            output_dir=output,
            per_device_train_batch_size=GROUP,
            gradient_accumulation_steps=completions // GROUP,
            num_generations=GROUP,
            max_completion_length=arguments.max_tokens,
            temperature=arguments.temperature,
            max_steps=arguments.steps + 1,
            learning_rate=1e-5,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            dataloader_pin_memory=False,
            seed=0,
        ),
    )


def _digits(completions: list[Any], **_: Any) -> list[float]:
    """Reward the share of digits: the same work in both arms, and not the same for all replies."""
    texts = [each[0]["content"] for each in completions]
    return [sum(map(str.isdigit, text)) / max(1, len(text)) for text in texts]


def report(arms: Sequence[Arm]) -> Table:
    """Lay the arms side by side, a row for each number of completions."""
    table = Table("completions", "TRL s", "ours s", "of it refresh s", "TRL tok/s", "ours tok/s")
    table.add_column("ratio of seconds")
    for theirs in (each for each in arms if each.generator == "TRL"):
        ours = next(
            each
            for each in arms
            if each.generator == "ours" and each.completions == theirs.completions
        )
        table.add_row(
            str(theirs.completions),
            f"{theirs.seconds:.2f}",
            f"{ours.seconds:.2f}",
            f"{ours.refresh_seconds:.2f}",
            f"{theirs.tokens_per_second:.0f}",
            f"{ours.tokens_per_second:.0f}",
            f"{theirs.seconds / ours.seconds:.2f}",
        )
    return table


def main() -> None:
    """Measure, print the table, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--completions", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--steps", type=int, default=3, help="measured, after one to warm up")
    parser.add_argument("--max-tokens", type=int, default=96, help="of a completion")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--kv-cache-gib", type=float, default=0.5)
    parser.add_argument("--output", type=Path, help="JSON of the numbers")
    arguments = parser.parse_args()
    wrong = [each for each in arguments.completions if each % GROUP]
    if wrong:
        parser.error(f"--completions: {wrong[0]} is no multiple of {GROUP}")
    quieten()
    arms = measure(arguments)
    Console().print(report(arms))
    if arguments.output is not None:
        settings = {key: value for key, value in vars(arguments).items() if key != "output"}
        told = {"settings": settings, "arms": [asdict(each) for each in arms]}
        arguments.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
