"""Checkpoints of every family in vLLM: what was trained is what answers, and what judges."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from server.engines.vllm_machine import VLLMOptions
from server.models import SilentProgress
from tests.strategies.harness import Bench
from tests.training import preferences, rewarded
from tests.training.test_generative_verifier import LABELS
from tests.training.test_generative_verifier import METHOD as GENERATIVE
from tests.training.test_outcome_reward import trained as trained_verifier
from tests.training.test_process_reward import stepped as a_reply_of
from tests.training.test_process_reward import steps_run
from tests.training.tiny import LENGTH, begin, recipe, write_rows
from training.encoding import Encoder
from training.models import find_base, load_model
from training.reward_models.step_marks import encode_steps, mark_logprobs, marked_batch
from training.reward_models.verdicts import Labels, asked_after, next_logprobs
from training.rows import Labelled, Message
from training.run import Run
from verifiers.generative import Generative
from verifiers.process_reward import ProcessReward
from verifiers.types import Candidate, Engine, Prompt, Sampling

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]  # vLLM's and torch's own

LORA = {"type": "lora", "r": 8}
ADAPTED: dict[str, Any] = {"adapter": LORA}
QUESTION = Prompt(({"role": "user", "content": "Say 3"},))


@pytest.fixture(autouse=True)
def collect_garbage() -> Iterator[None]:
    """vLLM leaves sockets to the collector, whose warnings are ignored only in this module."""
    yield
    gc.collect()


@asynccontextmanager
async def serving(model: Path, **options: Any) -> AsyncIterator[Engine]:
    from server.engines.vllm import VLLMEngine

    told = {"dtype": "float32", "max_model_len": LENGTH, "kv_cache_gib": 0.1, **options}
    engine = await VLLMEngine.start(model, "tiny", VLLMOptions.model_validate(told))
    try:
        yield engine
    finally:
        await engine.aclose()


def imitated(model: Path, directory: Path, **tables: Any) -> Run:
    """Fine-tune on a sentence that the model does not say by itself."""
    turns = [
        {"role": "user", "content": "Say 3"},
        {"role": "assistant", "content": "three it is"},
    ]
    rows = write_rows(directory / "rows.jsonl", [{"messages": turns}] * 8)
    method = {"type": "sft", "learning_rate": 1e-2}
    said = recipe(model, method, rows, **tables, training={"max_steps": 30})
    run = begin(said, directory)
    said.method.train(run)
    return run


def preferred(model: Path, directory: Path, **tables: Any) -> Run:
    """Train on preferences."""
    rows = preferences.pairs(directory)
    method = {"type": "dpo", "learning_rate": 1e-2}
    return preferences.trained(model, method, rows, directory, **tables)[0]


def reinforced(model: Path, directory: Path, **tables: Any) -> Run:
    """Train by a policy gradient."""
    method = {"type": "reinforce", "samples": 4, "learning_rate": 1e-2}
    return rewarded.trained(model, directory, method, training={"max_steps": 6}, **tables)


POLICIES = {"sft": imitated, "dpo": preferred, "reinforce": reinforced}


def published(run: Run) -> Path:
    assert run.result is not None
    return run.result.path


def in_transformers(run: Run) -> Any:
    """Load what was published, without vLLM."""
    assert run.result is not None
    found = find_base(f"checkpoint:{run.result.spec}", run.store, SilentProgress())
    return load_model(found, dtype="float32", adapted=False).eval()


async def said_by(engine: Engine, adapter: str | None = None) -> tuple[list[int], list[float]]:
    """Return the tokens of the likeliest reply, and their log-probabilities."""
    ids: list[int] = []
    logprobs: list[float] = []
    sampling = Sampling(12, temperature=0.0, logprobs=0)
    prompt = Prompt(QUESTION.messages, adapter=adapter)
    async for chunk in engine.generate(prompt, sampling, 1):
        ids += chunk.token_ids
        logprobs += [entry.logprob for entry in chunk.logprobs]
    return ids, logprobs


def likely(model: Any, encoder: Encoder, ids: list[int]) -> tuple[list[int], list[float]]:
    """Return the likeliest token at each place, and the log-probabilities of the reply's own."""
    prompt = encoder.prompt([Message.model_validate(each) for each in QUESTION.messages])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
    own = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    chosen = own.gather(1, torch.tensor(ids)[:, None])[:, 0]
    return own.argmax(-1).tolist(), chosen.tolist()


@pytest.fixture(scope="module")
def adapters(brief: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    """Train an adapter by a method of each family."""
    runs = {
        name: train(brief, tmp_path_factory.mktemp(name), **ADAPTED)
        for name, train in POLICIES.items()
    }
    faster = {"learning_rate": 1e-2}
    runs["generative"] = trained_verifier(
        brief, tmp_path_factory.mktemp("generative"), {**GENERATIVE, **faster}, **ADAPTED
    )
    runs["steps"] = steps_run(brief, tmp_path_factory.mktemp("steps"), faster, **ADAPTED)
    runs["steps"].recipe.method.train(runs["steps"])
    return runs


def test_adapters_of_every_family_are_served_beside_their_base(
    brief: Path, adapters: Mapping[str, Run]
) -> None:
    async def ask() -> None:
        paths = {name: published(run) for name, run in adapters.items()}
        async with serving(brief, adapters=paths) as engine:
            plain, _ = await said_by(engine)
            for name in POLICIES:
                ids, logprobs = await said_by(engine, name)
                greedy, own = likely(in_transformers(adapters[name]), adapters[name].encoder, ids)
                assert ids == greedy
                assert logprobs == pytest.approx(own, abs=1e-3)
                assert ids != plain or name != "sft"
            await judged_by_a_word(engine, adapters["generative"])
            await judged_step_by_step(engine, adapters["steps"])

    asyncio.run(ask())


async def judged_by_a_word(engine: Engine, run: Run) -> None:
    """Hold the generative verifier's scores in vLLM against the model's own."""
    model = in_transformers(run)
    verifier = Generative(adapter="generative", **LABELS)
    labels = Labels(run.encoder, LABELS["yes"], LABELS["no"])
    rows = [
        Labelled.model_validate({"prompt": "Problem 60?", "reply": reply, "label": label})
        for reply, label in (("601 x", 1), ("602 y", 0))
    ]
    batch = run.encoder.batch([asked_after(Generative(**LABELS), row, run.encoder) for row in rows])
    batch["last"] = batch["attention_mask"].sum(-1) - 1
    with torch.no_grad():
        own = labels.log_odds(next_logprobs(model, batch)).sigmoid()
    right, wrong = [await scored(engine, verifier, "Problem 60?", row.reply) for row in rows]
    assert [right.score, wrong.score] == pytest.approx(own.tolist(), abs=2e-3)
    assert right.score > wrong.score


async def judged_step_by_step(engine: Engine, run: Run) -> None:
    """Hold the process verifier's steps in vLLM against the model's own."""
    model = in_transformers(run)
    labels = Labels(run.encoder, "+", "-")
    row = a_reply_of("1x\n\n", "1y\n\n", "1y")
    (marked,) = encode_steps(ProcessReward(), row, run.encoder)
    with torch.no_grad():
        batch = marked_batch([marked], run.encoder.pad_id)
        own = labels.log_odds(mark_logprobs(model, batch)).sigmoid()
    verifier = ProcessReward(adapter="steps")
    reply = await scored(engine, verifier, "1?", "".join(row.steps))
    assert list(reply.steps) == pytest.approx(own.tolist(), abs=2e-3)
    assert reply.steps[0] > reply.steps[1]


async def scored(engine: Engine, verifier: Any, question: str, text: str) -> Candidate:
    prompt = Prompt(({"role": "user", "content": question},))
    bench = Bench(engine, verifier=verifier, prompt=prompt)
    (candidate,) = await bench.session.score([Candidate("0", text, finish_reason="stop")])
    return candidate


@pytest.mark.parametrize("name", POLICIES)
def test_whole_weights_of_every_family_are_served(name: str, brief: Path, tmp_path: Path) -> None:
    run = POLICIES[name](brief, tmp_path)

    async def ask() -> tuple[list[int], list[float]]:
        async with serving(published(run)) as engine:
            return await said_by(engine)

    ids, logprobs = asyncio.run(ask())
    tokenizer = AutoTokenizer.from_pretrained(published(run))
    greedy, own = likely(in_transformers(run), Encoder(tokenizer), ids)
    assert ids == greedy
    assert logprobs == pytest.approx(own, abs=1e-3)
