"""Scoring on vLLM: replies put in by their ids; steps and log-probabilities of transformers."""

from __future__ import annotations

import gc
import logging
import math
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from server.engines.vllm_machine import VLLMOptions
from server.models import SilentProgress, resolve
from strategies.budget import Stage
from tests.strategies.harness import Bench
from verifiers.generative import Generative
from verifiers.process_reward import ProcessReward
from verifiers.types import (
    TOKEN_IDS,
    Candidate,
    Engine,
    JSONObject,
    Prompt,
    Reply,
    Sampling,
    TokenLogprob,
)

pytestmark = [
    pytest.mark.model,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's and torch's own
]

MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
SMALL = MODELS[0]
PROMPT = Prompt(({"role": "user", "content": "Anna has 3 bags of 7 apples. How many apples?"},))
SYSTEM = {"role": "system", "content": "Think step by step."}
QUESTION = {"role": "user", "content": "Is the reply above correct? Answer Yes or No."}
REPLIES = (
    "Each bag holds 7 apples.\n\nThere are 3 bags.\n\nSo there are 3 * 7 = 21 apples.",
    "Each bag holds 7 apples.\n\nThere are 3 bags.\n\nSo Anna has 3 + 7 = 10 apples.\n\nIt is 10.",
    "🦊 Let us count:\n\n\n7, 14, 21.\n\n21",
)
MARK = "\nIs this step correct, yes or no? Answer:"
"""A model that was not trained for it needs words to give labels real mass at every step."""
BLOCK = 32
logger = logging.getLogger(__name__)
Forward = Callable[[Sequence[int]], Any]
"""The natural-log probabilities, tokens by vocabulary, of what follows each token."""


@pytest.fixture(autouse=True)
def collect_garbage() -> Iterator[None]:
    """vLLM leaves sockets to the collector, whose warnings are ignored only in this module."""
    yield
    gc.collect()


@pytest.fixture(scope="module", params=MODELS)
def renderer(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Make the renderer of a real tokenizer and template, without an engine."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.renderers import renderer_from_config

    from server.engines.vllm_prompt import ChatRenderer

    path = resolve(request.param, SilentProgress()).path
    config = AsyncEngineArgs(model=str(path), max_model_len=2048).create_engine_config()
    inner = renderer_from_config(config)
    core = SimpleNamespace(model_config=config.model_config, renderer=inner)
    yield ChatRenderer(core, None, None)
    inner.shutdown()


async def ids_of(renderer: Any, prompt: Prompt) -> list[int]:
    rendered = await renderer.render(prompt, Sampling(1))
    ids: list[int] = rendered.engine_input["prompt_token_ids"]
    return ids


def said(renderer: Any, text: str, *, ended: bool) -> JSONObject:
    """Make a message with the ids that the policy would have drawn, one of which merges nothing."""
    ids = [token for piece in text for token in renderer.tokenize(piece)]
    end = renderer.end_tokens[:1] if ended else ()
    return {"role": "assistant", "content": text, TOKEN_IDS: (*ids, *end)}


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("text", REPLIES)
@pytest.mark.parametrize("before", [(), (SYSTEM,)])
async def test_a_reply_is_put_in_as_its_own_ids(
    renderer: Any, before: tuple[JSONObject, ...], text: str, ended: bool
) -> None:
    turns = (*before, *PROMPT.messages)
    reply = said(renderer, text, ended=ended)
    drawn_from = await ids_of(renderer, Prompt(turns))
    spliced = await ids_of(renderer, Prompt((*turns, reply, QUESTION)))
    own = reply[TOKEN_IDS] if ended else (*reply[TOKEN_IDS], renderer.end_tokens[0])
    prefix = [*drawn_from, *own]
    assert spliced[: len(prefix)] == prefix
    assert spliced[len(prefix)] != renderer.end_tokens[0]
    plain = {"role": "assistant", "content": text}
    written = await ids_of(renderer, Prompt((*turns, plain, QUESTION)))
    decode = renderer._tokenizer.decode
    assert decode(spliced) == decode(written)
    assert spliced != written  # a token each character, which no tokenizer does by itself


async def test_several_replies_are_put_in_and_gone_on_with(renderer: Any) -> None:
    first, second = (said(renderer, text, ended=True) for text in REPLIES[:2])
    turns = (*PROMPT.messages, first, QUESTION)
    drawn_from = await ids_of(renderer, Prompt(turns))
    whole = await ids_of(renderer, Prompt((*turns, second, QUESTION), reply=Reply("So", (7,))))
    assert whole[: len(drawn_from)] == drawn_from
    assert whole[len(drawn_from) :][: len(second[TOKEN_IDS])] == list(second[TOKEN_IDS])
    assert whole[-1] == 7


@asynccontextmanager
async def started(**options: Any) -> AsyncIterator[Engine]:
    from server.engines.vllm import VLLMEngine

    path = resolve(SMALL, SilentProgress()).path
    engine = await VLLMEngine.start(path, "smollm2", VLLMOptions(max_model_len=1024, **options))
    try:
        yield engine
    finally:
        await engine.aclose()
        gc.collect()


@dataclass
class Precision:
    """An engine, the forward pass to compare with, and how far they may differ."""

    name: str
    engine: Engine
    forward: Forward
    mean: float
    most: float


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["bfloat16", "float32"])
async def precision(request: pytest.FixtureRequest) -> AsyncIterator[Precision]:
    name = request.param
    async with started(dtype=name) as engine:
        exact = name == "float32"
        limits = (1e-3, 1e-3) if exact else (0.02, 0.1)
        yield Precision(name, engine, forward_pass(name), *limits)


def forward_pass(dtype: str) -> Forward:
    import torch
    from transformers import AutoModelForCausalLM

    path = resolve(SMALL, SilentProgress()).path
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))

    def run(ids: Sequence[int]) -> Any:
        with torch.inference_mode():
            logits = model(torch.tensor([list(ids)])).logits[0]
        return torch.log_softmax(logits.float(), dim=-1)

    return run


async def candidates(engine: Any) -> list[Candidate]:
    """Make replies as they would be drawn: with ids, and the texts of these."""
    made = []
    for place, text in enumerate(REPLIES):
        ids = await engine.tokenize(text)
        pieces = [TokenLogprob(piece, -1.0) for piece in texts(engine, ids)]
        made.append(Candidate(str(place), text, ids, len(ids), tuple(pieces), finish_reason="stop"))
    return made


def texts(engine: Any, ids: Sequence[int]) -> list[str]:
    """Return the text of each token; a character of several belongs to the last of them."""
    decode = engine._renderer._tokenizer.decode
    shown, pieces = "", []
    for count in range(1, len(ids) + 1):
        decoded = decode(ids[:count])
        pieces.append("" if decoded.endswith("\ufffd") else decoded[len(shown) :])
        shown += pieces[-1]
    return pieces


def marked(engine: Any, candidate: Candidate, mark: Sequence[int]) -> list[Sequence[int]]:
    """Return the ids up to each step's mark, by decoding more and more of them."""
    decode, ids = engine._renderer._tokenizer.decode, candidate.token_ids
    ends = [found.end() for found in re.finditer("\n\n", candidate.text)]
    lengths = [
        next(count for count in range(1, len(ids)) if len(decode(ids[:count])) >= end)
        for end in ends
    ]
    return [(*ids[:length], *mark) for length in (*lengths, len(ids))]


def common_labels(rows: Sequence[Any], decode: Any) -> tuple[str, str]:
    """Return the two words that have the most mass where they have the least of it."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for label, mass in label_shares(row, decode).items():
            found[label].append(mass)
    least = {label: min(masses) for label, masses in found.items() if len(masses) == len(rows)}
    first, second, *_ = sorted(least, key=lambda label: -least[label])
    return first, second


def label_shares(row: Any, decode: Any) -> dict[str, float]:
    """Return the mass of every word among the twenty likeliest tokens, as labels are read."""
    top = row.topk(20)
    masses: dict[str, float] = defaultdict(float)
    for token, logprob in zip(top.indices.tolist(), top.values.tolist(), strict=True):
        masses[decode([token]).strip().casefold()] += math.exp(logprob)
    return {label: mass for label, mass in masses.items() if label}


async def test_step_scores_are_those_of_a_forward_pass(precision: Precision) -> None:
    engine: Any = precision.engine
    decode = engine._renderer._tokenizer.decode
    prompt_ids, mark = await ids_of(engine._renderer, PROMPT), await engine.tokenize(MARK)
    drawn = await candidates(engine)
    rows = [
        [precision.forward([*prompt_ids, *ids])[-1] for ids in marked(engine, each, mark)]
        for each in drawn
    ]
    good, bad = common_labels([row for own in rows for row in own], decode)
    verifier = ProcessReward(mark=MARK, good=good, bad=bad, least_mass=1e-9)
    scored = await Bench(engine, verifier=verifier, prompt=PROMPT).session.score(drawn)
    off = []
    for own, each in zip(rows, scored, strict=True):
        masses = [label_shares(row, decode) for row in own]
        expected = [mass[good] / (mass[good] + mass[bad]) for mass in masses]
        assert len(each.steps) == len(expected)
        off += [abs(step - wanted) for step, wanted in zip(each.steps, expected, strict=True)]
    logger.info("%s: %r or %r, steps off by %s", precision.name, good, bad, off)
    assert len(off) == 10
    assert sum(off) / len(off) <= precision.mean
    assert max(off) <= precision.most


@pytest.mark.parametrize("incremental", [False, True])
async def test_log_probabilities_of_a_reply_are_those_of_a_forward_pass(
    precision: Precision, incremental: bool
) -> None:
    engine: Any = precision.engine
    assert engine.capabilities.reply_logprobs
    prompt_ids = await ids_of(engine._renderer, PROMPT)
    off = []
    for each in await candidates(engine):
        prompt = replace(PROMPT, reply=Reply(each.text, each.token_ids))
        sampling = Sampling(
            3, temperature=0.0, logprobs=0, reply_logprobs=True, incremental=incremental
        )
        chunks = [chunk async for chunk in engine.generate(prompt, sampling)]
        entries = [entry for chunk in chunks for entry in chunk.logprobs]
        ids = [*prompt_ids, *each.token_ids, *(t for chunk in chunks for t in chunk.token_ids)]
        assert len(prompt_ids) + len(entries) == len(ids)
        assert "".join(entry.token for entry in entries[: each.tokens]) == each.text
        rows = precision.forward(ids)
        wanted = [rows[i - 1][ids[i]].item() for i in range(len(prompt_ids), len(ids))]
        pairs = list(zip(wanted, (entry.logprob for entry in entries), strict=True))
        if precision.name == "float32":
            off += [abs(one - other) for one, other in pairs]
        else:
            off += [abs(math.exp(one) - math.exp(other)) for one, other in pairs]
    logger.info("%s: tokens off by %s at the most", precision.name, max(off))
    assert sum(off) / len(off) <= precision.mean
    assert max(off) <= precision.most


async def test_log_probabilities_of_the_new_tokens_come_alone_without_a_reply(
    precision: Precision,
) -> None:
    sampling = Sampling(2, temperature=0.0, logprobs=0, reply_logprobs=True)
    (chunk,) = [chunk async for chunk in precision.engine.generate(PROMPT, sampling)]
    assert len(chunk.logprobs) == len(chunk.token_ids) == 2


async def test_a_candidate_that_shares_a_prefix_computes_its_own_tokens_alone(
    precision: Precision,
) -> None:
    engine: Any = precision.engine
    shared = "First we look at every one of the bags, and we count the apples in it. " * 8
    prompt = Prompt(({"role": "user", "content": f"{precision.name}: how many apples?"},))
    length = await engine.count_tokens(prompt)
    verifier = ProcessReward(good="the", bad="a", least_mass=1e-9)
    drawn = []
    for place, end in enumerate(("So there are 21.", "Then there are 10 of them.")):
        ids = await engine.tokenize(f"{shared}\n\n{end}")
        pieces = tuple(TokenLogprob(piece, -1.0) for piece in texts(engine, ids))
        drawn.append(Candidate(str(place), f"{shared}\n\n{end}", ids, logprobs=pieces))
    computed = []
    for each in drawn:
        bench = Bench(engine, verifier=verifier, prompt=prompt)  # which remembers nothing
        await bench.session.score([each])
        judged = bench.ledger.usage[Stage.VERIFY]
        assert judged.calls == 2
        computed.append(judged.prompt_tokens - judged.cached_tokens)
    one, other = (each.token_ids for each in drawn)
    common = next(
        place for place, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) > 1
    )
    assert common > 100
    own = len(other) - common + len(await engine.tokenize("\n\n"))
    logger.info("%s: computed %s, of them its own %s", precision.name, computed, own)
    assert computed[0] > length + common - BLOCK
    assert computed[1] <= own + 2 * BLOCK


async def test_a_question_after_the_reply_finds_prompt_and_reply_in_the_cache(
    precision: Precision,
) -> None:
    engine: Any = precision.engine
    prompt = Prompt(({"role": "user", "content": f"Tell me a story about {precision.name}."},))
    bench = Bench(engine, verifier=Generative(), prompt=prompt, sampling=Sampling(80, logprobs=0))
    drawn = await bench.session.sample(1)
    await bench.session.score(drawn)
    judged = bench.ledger.usage[Stage.VERIFY]
    known = await engine.count_tokens(prompt) + len(drawn[0].token_ids)
    assert judged.prompt_tokens > known
    assert judged.cached_tokens >= (known - 1) // BLOCK * BLOCK
