"""New weights in a running vLLM: SmolLM2-135M in float32, held against transformers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from server.models import SilentProgress, resolve
from training.rollouts.base import RolloutError, Rollouts, RolloutSettings, open_rollouts
from training.rollouts.base import policy_sampling as plain
from verifiers.types import Candidate, Prompt

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore"),  # vLLM's and torch's own
]

STORY = Prompt(({"role": "user", "content": "Tell me a story about a fox and a river. " * 12},))
"""Over several blocks of the cache, so that a second request finds it there."""
OPTIONS = {
    "dtype": "float32",
    "kv_cache_gib": 0.5,
    "max_model_len": 1024,
}


@pytest.fixture(scope="module")
def directory() -> Path:
    return Path(resolve("smollm2-135m-instruct", SilentProgress()).path)


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(directory)


def opened(directory: Path, tokenizer: Any, weights: str) -> Iterator[Rollouts]:
    settings = RolloutSettings.model_validate({"options": OPTIONS, "weights": weights})
    with open_rollouts(settings, directory, tokenizer) as rollouts:
        yield rollouts
    gc.collect()  # vLLM leaves sockets to the collector, whose warnings are ignored only here


@pytest.fixture(scope="module")
def merged(directory: Path, tokenizer: Any) -> Iterator[Rollouts]:
    yield from opened(directory, tokenizer, "merged")


def changed(directory: Path, by: float) -> PreTrainedModel:
    """Load the model and change every weight a little, the tied embedding too."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    torch.manual_seed(int(by * 1000))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + by * torch.randn_like(parameter))
    return model


def adapted(directory: Path, seed: int) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(model, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return policy.eval()


def draw(rollouts: Rollouts) -> list[Candidate]:
    (replies,) = rollouts.generate([STORY], plain(12, 0.0), 2)
    return replies


def differences(model: Any, tokenizer: Any, replies: list[Candidate]) -> list[float]:
    """Compare log-probabilities with the model's own; greedy replies must be its likeliest."""
    ids = tokenizer.apply_chat_template(
        list(STORY.messages), add_generation_prompt=True, return_dict=False
    )
    found = []
    for reply in replies:
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *reply.token_ids]])).logits[0]
        own = logits.log_softmax(-1)[len(ids) - 1 : -1]
        assert own.argmax(-1).tolist() == list(reply.token_ids)
        found += [
            abs(float(row[token]) - entry.logprob)
            for row, token, entry in zip(own, reply.token_ids, reply.logprobs, strict=True)
        ]
    return found


def test_every_refresh_is_the_new_model_and_none_of_the_old_cache(
    merged: Rollouts, directory: Path, tokenizer: Any
) -> None:
    replies = draw(merged)
    for step, by in enumerate((0.03, 0.05), start=1):
        model = changed(directory, by)
        assert max(differences(model, tokenizer, draw_after(merged, model, step))) < 1e-3
        assert merged.step == step
    assert replies[0].token_ids != draw(merged)[0].token_ids


def draw_after(rollouts: Rollouts, model: Any, step: int) -> list[Candidate]:
    """Fill the cache with the old weights' blocks of this very prompt, then take new ones."""
    draw(rollouts)
    rollouts.refresh(model, step)
    return draw(rollouts)


def test_the_comparison_would_see_old_weights(
    merged: Rollouts, directory: Path, tokenizer: Any
) -> None:
    merged.refresh(changed(directory, 0.03), 10)
    first = draw(merged)
    other = changed(directory, 0.04)
    ids = tokenizer.apply_chat_template(
        list(STORY.messages), add_generation_prompt=True, return_dict=False
    )
    with torch.no_grad():
        own = other(torch.tensor([[*ids, *first[0].token_ids]])).logits[0].log_softmax(-1)
    gaps = [
        abs(float(own[len(ids) - 1 + place, token]) - first[0].logprobs[place].logprob)
        for place, token in enumerate(first[0].token_ids)
    ]
    assert max(gaps) > 0.05


def test_an_adapter_is_merged_into_what_is_given(
    merged: Rollouts, directory: Path, tokenizer: Any
) -> None:
    policy = adapted(directory, 1)
    before = {name: each.clone() for name, each in policy.state_dict().items()}
    assert max(differences(policy, tokenizer, draw_after(merged, policy, 20))) < 1e-3
    assert all(torch.equal(before[name], each) for name, each in policy.state_dict().items())


def test_an_adapter_gets_a_new_name_each_time(directory: Path, tokenizer: Any) -> None:
    for rollouts in opened(directory, tokenizer, "adapter"):
        for step, seed in ((1, 1), (2, 2), (2, 3)):
            policy = adapted(directory, seed)
            assert max(differences(policy, tokenizer, draw_after(rollouts, policy, step))) < 1e-3
            assert len(rollouts.engine.capabilities.adapters) == 1
        with pytest.raises(RolloutError, match="whole weights are trained"):
            rollouts.refresh(policy.get_base_model(), 3)
