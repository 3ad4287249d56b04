"""Rollouts of the trained model itself: the engine's contract, and what trainers rely on."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.engines.conftest import stub  # noqa: F401
from tests.stub_upstream import Stub
from training.bottleneck import add_bottlenecks
from training.rollouts.base import (
    RolloutError,
    Rollouts,
    RolloutSettings,
    open_rollouts,
    policy_sampling,
)
from training.rollouts.loop_thread import LoopThread
from training.rollouts.merged_weights import merged_weights, written_weights
from verifiers.errors import BadRequest
from verifiers.types import Candidate, Prompt, Reply, Sampling

END = 2
"""The tiny model's `<|im_end|>`."""
OWN = RolloutSettings(backend="model")
HELLO = Prompt(({"role": "user", "content": "Hello"},))
OTHER = Prompt(({"role": "user", "content": "Count to twenty, please."},))


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture
def model(tiny: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny)


@pytest.fixture
def rollouts(tiny: Path, tokenizer: Any, model: Any) -> Iterator[Rollouts]:
    with open_rollouts(OWN, tiny, tokenizer, model) as opened:
        yield opened


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


def rendered(tokenizer: Any, prompt: Prompt) -> list[int]:
    return list(
        tokenizer.apply_chat_template(
            list(prompt.messages), add_generation_prompt=True, return_dict=False
        )
    )


def expected_logprobs(model: Any, tokenizer: Any, prompt: Prompt, reply: Candidate) -> list[float]:
    ids = rendered(tokenizer, prompt)
    whole = logits(model, [*ids, *reply.token_ids]).log_softmax(-1)
    return [float(whole[len(ids) - 1 + i, token]) for i, token in enumerate(reply.token_ids)]


def test_log_probabilities_are_the_models_own_at_temperature_one(
    rollouts: Rollouts, model: Any, tokenizer: Any
) -> None:
    prompts = [HELLO, OTHER]
    drawn = rollouts.generate(prompts, policy_sampling(12, 0.7, seed=3), 3)
    assert [len(group) for group in drawn] == [3, 3]
    for prompt, group in zip(prompts, drawn, strict=True):
        for reply in group:
            expected = expected_logprobs(model, tokenizer, prompt, reply)
            assert [entry.logprob for entry in reply.logprobs] == pytest.approx(expected, abs=1e-4)
            assert reply.tokens == len(reply.token_ids) == len(reply.logprobs)
    assert len({each.id for group in drawn for each in group}) == 6


def test_greedy_is_the_likeliest_token_each_time(
    rollouts: Rollouts, model: Any, tokenizer: Any
) -> None:
    ((reply,),) = rollouts.generate([HELLO], policy_sampling(6, 0.0))
    ids = rendered(tokenizer, HELLO)
    for token in reply.token_ids:
        assert token == int(logits(model, ids)[-1].argmax())
        ids.append(token)


def test_a_reply_that_ends_by_itself_holds_its_end_token(
    rollouts: Rollouts, tokenizer: Any
) -> None:
    ((*replies,),) = rollouts.generate([HELLO], policy_sampling(60, seed=1), 40)
    ended = [reply for reply in replies if reply.finish_reason == "stop"]
    cut = [reply for reply in replies if reply.finish_reason == "length"]
    assert ended
    assert cut
    assert all(len(reply.token_ids) == 60 and END not in reply.token_ids for reply in cut)
    for reply in ended:
        assert reply.token_ids.index(END) == len(reply.token_ids) - 1
        assert reply.text == tokenizer.decode(reply.token_ids[:-1], skip_special_tokens=True)


def test_samples_follow_the_distribution(rollouts: Rollouts, model: Any, tokenizer: Any) -> None:
    expected = logits(model, rendered(tokenizer, HELLO))[-1].softmax(-1)
    n = 1_000
    ((*replies,),) = rollouts.generate([HELLO], policy_sampling(1, 1.0, seed=5), n)
    counts = Counter(reply.token_ids[0] for reply in replies)
    statistic = sum(
        (counts[token] - n * share) ** 2 / (n * share)
        for token, share in enumerate(expected.tolist())
    )
    degrees = len(expected) - 1
    assert statistic < degrees + 5 * (2 * degrees) ** 0.5


def test_top_k_cuts_the_tail_off(rollouts: Rollouts, model: Any, tokenizer: Any) -> None:
    best = logits(model, rendered(tokenizer, HELLO))[-1].topk(3).indices.tolist()
    sampling = policy_sampling(1, 1.0, top_k=3, seed=5)
    ((*replies,),) = rollouts.generate([HELLO], sampling, 60)
    assert {reply.token_ids[0] for reply in replies} == set(best)


def test_a_seed_repeats_a_reply_whatever_is_drawn_beside_it(rollouts: Rollouts) -> None:
    sampling = policy_sampling(10, 1.0, seed=9)
    alone = rollouts.generate([HELLO], sampling, 2)[0]
    beside = rollouts.generate([HELLO, OTHER], sampling, 2)
    assert [each.text for each in alone] == [each.text for each in beside[0]]
    assert alone[0].text != alone[1].text
    again = rollouts.generate([HELLO, HELLO], sampling, 1)
    assert again[0][0].text != again[1][0].text


def test_training_sees_nothing_of_the_drawing(rollouts: Rollouts, model: Any) -> None:
    model.train()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    rollouts.generate([HELLO], policy_sampling(4))
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert all(each.grad is None for each in model.parameters())


def test_stop_strings_end_a_reply(rollouts: Rollouts) -> None:
    ((whole,),) = rollouts.generate([HELLO], policy_sampling(10, 0.0))
    stop = whole.text[3:5]
    assert len(stop) == 2
    first = whole.text.index(stop)
    ((cut,),) = rollouts.generate([HELLO], policy_sampling(10, 0.0, stop=(stop,)))
    ((kept,),) = rollouts.generate([HELLO], policy_sampling(10, 0.0, stop=(stop,), keep_stop=True))
    assert (cut.text, cut.finish_reason, cut.stop_reason) == (whole.text[:first], "stop", stop)
    assert kept.text == whole.text[: first + 2]
    assert cut.token_ids == whole.token_ids[: first + 2] == kept.token_ids


def test_a_reply_goes_on_by_its_ids(rollouts: Rollouts) -> None:
    ((whole,),) = rollouts.generate([HELLO], policy_sampling(8, 0.0))
    begun = replace(HELLO, reply=Reply("", whole.token_ids[:3]))
    ((rest,),) = rollouts.generate([begun], policy_sampling(5, 0.0))
    assert rest.token_ids == whole.token_ids[3:]


def test_alternatives_are_the_likeliest(rollouts: Rollouts, model: Any, tokenizer: Any) -> None:
    ((reply,),) = rollouts.generate([HELLO], policy_sampling(1, 0.0, logprobs=5))
    values, ids = logits(model, rendered(tokenizer, HELLO))[-1].log_softmax(-1).topk(5)
    assert reply.logprobs[0].top_ids == tuple(ids.tolist())
    assert [each for _, each in reply.logprobs[0].top] == pytest.approx(values.tolist(), abs=1e-5)
    assert exp(reply.logprobs[0].logprob) == pytest.approx(exp(float(values[0])), rel=1e-4)


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        (HELLO, Sampling(4, frequency_penalty=1.0), "frequency_penalty"),
        (replace(HELLO, response_format={"type": "json_object"}), Sampling(4), "grammars"),
        (Prompt(({"role": "user", "content": "a" * 300},)), Sampling(4), "no room"),
    ],
)
def test_what_it_cannot_do_is_refused(
    rollouts: Rollouts, prompt: Prompt, sampling: Sampling, message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        rollouts.generate([HELLO, prompt], sampling)


def test_after_a_refresh_the_new_weights_draw(
    rollouts: Rollouts, tiny: Path, tokenizer: Any
) -> None:
    other = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    assert rollouts.step is None
    rollouts.refresh(other, 7)
    assert rollouts.step == 7
    ((reply,),) = rollouts.generate([HELLO], policy_sampling(8))
    expected = expected_logprobs(other, tokenizer, HELLO, reply)
    assert [entry.logprob for entry in reply.logprobs] == pytest.approx(expected, abs=1e-4)


def test_a_prefix_is_drawn_with(rollouts: Rollouts, model: Any, tokenizer: Any) -> None:
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    prefixed = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in prefixed.named_parameters():
            if "prompt_encoder" in name:
                parameter.normal_(std=3.0)
    rollouts.refresh(prefixed, 1)
    ((reply,),) = rollouts.generate([HELLO], policy_sampling(6))
    expected = expected_logprobs(prefixed, tokenizer, HELLO, reply)
    assert [entry.logprob for entry in reply.logprobs] == pytest.approx(expected, abs=1e-3)
    with pytest.raises(RolloutError, match="prefix_tuning cannot be merged"):
        list(merged_weights(prefixed))


def test_progress_is_told_of_each_reply(rollouts: Rollouts) -> None:
    told: list[tuple[int, int]] = []
    rollouts.generate(
        [HELLO, OTHER], policy_sampling(2), 2, lambda done, whole: told.append((done, whole))
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_is_closed_draws_no_more(rollouts: Rollouts) -> None:
    rollouts.close()
    rollouts.close()
    with pytest.raises(RuntimeError, match="closed"):
        rollouts.generate([HELLO], policy_sampling(2))


@pytest.mark.parametrize("config", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_merged_weights_are_the_adapted_model(
    tiny: Path, tokenizer: Any, config: dict[str, Any], model: Any
) -> None:
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "down_proj"], **config))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    ids = rendered(tokenizer, OTHER)
    adapted.eval()
    expected = logits(adapted, ids)
    before = {name: each.clone() for name, each in adapted.named_parameters()}
    plain = AutoModelForCausalLM.from_pretrained(tiny)
    assert not torch.allclose(logits(plain, ids), expected, atol=1e-2)
    plain.load_state_dict(dict(merged_weights(adapted)))
    assert torch.allclose(logits(plain, ids), expected, atol=1e-4)
    after = dict(adapted.named_parameters())
    assert all(torch.equal(after[name], each) for name, each in before.items())


def test_what_cannot_be_merged_is_told(model: Any, tiny: Path) -> None:
    with_bottlenecks = add_bottlenecks(AutoModelForCausalLM.from_pretrained(tiny), 4)
    with pytest.raises(RolloutError, match="bottlenecks cannot be merged"):
        list(merged_weights(with_bottlenecks))
    packed = torch.zeros(2, dtype=torch.uint8)
    model.lm_head.weight = torch.nn.Parameter(packed, requires_grad=False)
    with pytest.raises(RolloutError, match=r"lm_head\.weight is quantised"):
        list(merged_weights(model))


def test_weights_are_written_as_transformers_reads_them(tiny: Path, model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    with written_weights(model, torch.float32) as directory:
        (directory / "config.json").write_bytes((tiny / "config.json").read_bytes())
        read = AutoModelForCausalLM.from_pretrained(directory)
    assert not directory.exists()
    expected = model.state_dict()
    assert all(torch.equal(expected[name], each) for name, each in read.state_dict().items())


def test_a_server_is_drawn_from_and_takes_no_weights(
    stub: Stub,  # noqa: F811
    tiny: Path,
    tokenizer: Any,
    model: Any,
) -> None:
    settings = RolloutSettings(backend="http", url=stub.base_url, model=stub.model)
    with open_rollouts(settings, tiny, tokenizer) as rollouts:
        drawn = rollouts.generate([HELLO, OTHER], Sampling(16, 1.0, seed=1), 2)
        assert [len(group) for group in drawn] == [2, 2]
        assert all(each.done and each.text for group in drawn for each in group)
        with pytest.raises(RolloutError, match="takes no new weights over HTTP"):
            rollouts.refresh(model, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backend": "http", "url": "http://127.0.0.1:1/v1"}, "needs `url` and `model`"),
        ({"backend": "model", "weights": "adapter"}, "`weights` is for backend 'vllm'"),
        ({"url": "http://127.0.0.1:1/v1"}, "`url` is for backend 'http'"),
        ({"backend": "vllm", "cache": 1}, "cache"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RolloutSettings.model_validate(given)


def test_the_loop_runs_in_a_thread_of_its_own_until_closed() -> None:
    loop = LoopThread("test")

    async def where() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    async def fail() -> None:
        raise KeyError("told to")

    assert loop.run(where()) == "test"
    with pytest.raises(KeyError, match="told to"):
        loop.run(fail())
    loop.close()
    loop.close()
    with pytest.raises(RuntimeError, match="test is closed"):
        loop.run(where())
