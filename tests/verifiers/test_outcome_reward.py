"""Reward heads: equal to a plain forward pass by every backend, alone and in batches."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.responses import Response

from strategies.best_of_n import BestOfN
from tests.strategies.harness import Bench
from tests.verifiers.scoring_server import running
from tests.verifiers.tiny_classifier import LENGTH, save_tiny
from verifiers.calibration import Temperature, sigmoid
from verifiers.errors import VerifierError, VerifierUnavailable
from verifiers.manifest import Manifest, tokenizer_digest, write_manifest
from verifiers.outcome_reward import OutcomeReward, head_probability
from verifiers.types import Candidate, JSONObject, Prompt, Score, Task

QUESTION: list[JSONObject] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "What is 6 times 7?"}]},
]
TASK = Task(Prompt(tuple(QUESTION)))
TEXTS = ["42", "I do not know.", "It is 6 · 7 = 42, which is a sum of sevens: " + "7 + " * 60, ""]

model = pytest.mark.model
quietly = pytest.mark.filterwarnings("ignore")  # torch's, transformers' and vLLM's own


def candidates(*texts: str) -> list[Candidate]:
    return [Candidate(str(place), text) for place, text in enumerate(texts)]


@asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[OutcomeReward]:
    verifier = OutcomeReward(**settings)
    try:
        await verifier.start()
        yield verifier
    finally:
        await verifier.aclose()


async def ask(verifier: OutcomeReward, *texts: str, task: Task = TASK) -> list[Score]:
    return await verifier.score(task, candidates(*texts), None)  # type: ignore[arg-type]


def plain_logits(directory: Path, texts: Sequence[str]) -> list[list[float]]:
    """Score one by one, as transformers alone would."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    head = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    found = []
    for text in texts:
        messages = [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "What is 6 times 7?"},
            {"role": "assistant", "content": text},
        ]
        written = tokenizer.apply_chat_template(messages, tokenize=False)
        with torch.inference_mode():
            logits = head(**tokenizer(written, return_tensors="pt")).logits
        found.append(logits[0].tolist())
    return found


def test_one_logit_is_squashed_and_several_are_weighed() -> None:
    assert head_probability((math.log(3),), 1) == pytest.approx(0.75)
    assert head_probability((0.0, math.log(4)), 1) == pytest.approx(0.8)
    assert head_probability((0.0, math.log(4)), 0) == pytest.approx(0.2)
    assert head_probability((-900.0, 900.0, 0.0), 1) == 1.0
    with pytest.raises(VerifierError, match="no number"):
        head_probability((float("nan"),), 1)
    with pytest.raises(VerifierError, match="2 classes"):
        head_probability((0.0, 0.0), 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"backend": "transformers"},
        {"backend": "vllm"},
        {"backend": "http"},
        {"backend": "vllm", "model": "m", "url": "http://h"},
        {"backend": "http", "url": "ftp://h"},
        {"backend": "http", "url": "http://h", "path": "/embed"},
    ],
)
def test_what_does_not_fit_together_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OutcomeReward(**wrong)


async def test_a_directory_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(VerifierError, match="no such directory"):
        async with started(backend="transformers", model=str(tmp_path / "none")):
            pass


async def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    digest = tokenizer_digest(tmp_path)
    write_manifest(tmp_path, Manifest(kind="prm", base_model="b", tokenizer=digest))
    with pytest.raises(VerifierError, match="kind prm, not orm"):
        async with started(backend="transformers", model=str(tmp_path)):
            pass


def classify(body: JSONObject) -> JSONObject:
    """Answer as vLLM 0.32 does: the logit is the length of the reply, less 3."""
    logit = len(body["messages"][-1]["content"]) - 3.0
    return {
        "id": "classify-1",
        "object": "list",
        "created": 1,
        "model": "m",
        "data": [{"index": 0, "label": "LABEL_0", "probs": [logit], "num_classes": 1}],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }


def pooling(body: JSONObject) -> JSONObject:
    logit = len(body["messages"][-1]["content"]) - 3.0
    return {"data": [{"index": 0, "object": "pooling", "data": [0.0, logit]}]}


def pair(body: JSONObject) -> JSONObject:
    return {"data": [{"index": 0, "object": "score", "score": len(body["text_2"]) - 3.0}]}


@pytest.mark.parametrize(
    ("path", "answer"), [("/classify", classify), ("/pooling", pooling), ("/score", pair)]
)
async def test_behind_a_pooling_server(path: str, answer: Any) -> None:
    with running(answer) as stub:
        settings = {"backend": "http", "url": f"{stub.url}/", "path": path, "model": "m"}
        async with started(**settings, api_key="k") as verifier:
            await verifier.check()
            scores = await ask(verifier, "abc", "abcde", "")
    assert [each.value for each in scores] == pytest.approx([0.5, sigmoid(2), sigmoid(-3)])
    assert set(stub.paths) == {path}
    assert set(stub.keys) == {"Bearer k"}
    assert all(body["use_activation"] is False and body["model"] == "m" for body in stub.asked)
    told = next(body for body in stub.asked if "abcde" in str(body))
    if path == "/score":
        assert told["text_1"] == "system: Be short.\n\nuser: What is 6 times 7?"
    else:
        assert told["messages"] == [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "What is 6 times 7?"},
            {"role": "assistant", "content": "abcde"},
        ]


@model
@quietly
async def test_vllm_s_server_takes_what_it_is_asked() -> None:
    from pydantic import TypeAdapter
    from vllm.entrypoints.pooling.classify.protocol import ClassificationRequest
    from vllm.entrypoints.pooling.pooling.protocol import PoolingRequest
    from vllm.entrypoints.pooling.scoring.protocol import ScoreRequest

    shapes: dict[str, tuple[Any, Any]] = {
        "/classify": (classify, ClassificationRequest),
        "/pooling": (pooling, PoolingRequest),
        "/score": (pair, ScoreRequest),
    }
    for path, (answer, shape) in shapes.items():
        with running(answer) as stub:
            async with started(backend="http", url=stub.url, path=path, model="m") as verifier:
                await ask(verifier, "abc")
        asked: Any = TypeAdapter(shape).validate_python(stub.asked[0])
        assert asked.to_pooling_params().use_activation is False
        assert asked.to_pooling_params().task == "classify"
        assert asked.model_extra == {}, "vLLM knows every field"


async def test_a_text_that_the_server_refuses_is_an_abstention() -> None:
    with running(classify) as stub:
        stub.faults.append(Response('{"error": {"message": "too long"}}', 400))
        async with started(backend="http", url=stub.url) as verifier:
            assert await ask(verifier, "abc") == [Score(0.0, abstained=True)]
            assert await ask(verifier, "abc") == [Score(0.5)]
            stub.faults.append(Response("{}", 400))
            with pytest.raises(VerifierUnavailable):
                await verifier.check()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"data": []}',
        b'{"data": [{"probs": []}]}',
        b'{"data": [{"probs": [NaN]}]}',
        b'{"data": [{"probs": [0.5]}, {"probs": [0.5]}]}',
    ],
)
async def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    with running(classify) as stub:
        stub.faults.append(Response(body))
        async with started(backend="http", url=stub.url) as verifier:
            with pytest.raises(VerifierError):
                await ask(verifier, "abc")


async def test_a_server_that_is_away_or_slow_is_unavailable_and_heals() -> None:
    with running(classify) as stub:
        port = stub.port
    settings = {"backend": "http", "url": f"http://127.0.0.1:{port}", "timeout_s": 0.5}
    async with started(**settings, retries=0) as verifier:
        with pytest.raises(VerifierUnavailable):
            await ask(verifier, "abc")
        with running(classify, port) as stub:
            stub.faults.append(5.0)
            with pytest.raises(VerifierUnavailable):
                await ask(verifier, "abc")
            assert await ask(verifier, "abc") == [Score(0.5)]


@model
@quietly
@pytest.mark.parametrize("labels", [1, 2])
async def test_transformers_equals_a_plain_forward_pass(tmp_path: Path, labels: int) -> None:
    directory = save_tiny(tmp_path, labels=labels)
    expected = [head_probability(tuple(each), 1) for each in plain_logits(directory, TEXTS)]
    settings = {"backend": "transformers", "model": str(directory)}
    async with started(**settings, batch_size=3) as verifier:
        together = [each.value for each in await ask(verifier, *TEXTS)]
        alone = [(await ask(verifier, text))[0].value for text in TEXTS]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(verifier, text)) for text in TEXTS * 8]
        beside = [task.result()[0].value for task in tasks]
    assert together == pytest.approx(expected, abs=1e-5)
    assert alone == pytest.approx(expected, abs=1e-5)
    assert beside == pytest.approx(expected * 8, abs=1e-5)
    assert len({round(each, 3) for each in expected}) > 2, "the model tells texts apart"


@model
@quietly
async def test_what_fails_fails_its_own_request(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path)
    async with started(backend="transformers", model=str(directory), wait_s=0.05) as verifier:
        nobody = Task(Prompt(({"role": "nobody", "content": "boo"},)))
        good = asyncio.create_task(ask(verifier, "42"))
        bad = asyncio.create_task(ask(verifier, "42", task=nobody))
        long = asyncio.create_task(ask(verifier, "7" * LENGTH, "42"))
        with pytest.raises(VerifierError, match="nobody speaks"):
            await bad
        (score,) = await good
        assert await long == [Score(0.0, abstained=True), score]


@model
@quietly
async def test_the_event_loop_goes_on_while_a_batch_is_scored(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path)
    async with started(backend="transformers", model=str(directory)) as verifier:
        await verifier.check()
        asked = asyncio.create_task(ask(verifier, *["7" * 400] * 512))
        start = last = time.monotonic()
        held_up = 0.0
        while not asked.done():
            await asyncio.sleep(0.001)
            gap, last = time.monotonic() - last, time.monotonic()
            held_up += gap if gap > 0.1 else 0  # a forward pass would hold it up for all of it
        assert len(await asked) == 512
        assert held_up < 0.3 * (last - start)


@model
@quietly
async def test_cancelling_stops_the_work_and_time_outs_are_told(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path)
    settings: dict[str, Any] = {"backend": "transformers", "model": str(directory)}
    async with started(**settings, batch_size=1, timeout_s=0.05) as verifier:
        with pytest.raises(VerifierUnavailable, match=r"0\.05 s"):
            await ask(verifier, *["7" * 400] * 512)
        start = time.monotonic()
        while True:  # it is free again as soon as the forward pass has ended that ran
            try:
                await ask(verifier, "42")
                break
            except VerifierUnavailable:
                assert time.monotonic() - start < 1


@model
@quietly
async def test_a_language_model_without_a_head_is_refused(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path, head=False)
    with pytest.raises(VerifierError, match=r"no sequence classifier: it lacks score\.weight"):
        async with started(backend="transformers", model=str(directory)):
            pass


@model
@quietly
async def test_a_checkpoint_brings_its_calibration(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path)
    manifest = Manifest(
        kind="orm",
        base_model="org/base",
        tokenizer=tokenizer_digest(directory),
        calibration=Temperature(temperature=2.0),
    )
    write_manifest(directory, manifest)
    settings: dict[str, Any] = {"backend": "transformers", "model": str(directory)}
    async with started(**settings) as verifier:
        assert verifier.probability(0.8) == pytest.approx(2 / 3)
    async with started(**settings, calibration=Temperature(temperature=1.0)) as verifier:
        assert verifier.probability(0.8) == pytest.approx(0.8)
    (directory / "config.json").write_text("{}")
    with pytest.raises(VerifierError, match=r"config\.json: not what was written"):
        async with started(**settings):
            pass


@model
@quietly
async def test_best_of_n_by_a_reward_model(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path)
    async with started(backend="transformers", model=str(directory)) as verifier:
        bench = Bench(verifier=verifier)
        outcome = await bench.run(BestOfN(n=4))
    assert outcome.choices[0].score == max(each.score for each in outcome.candidates)
    assert all(0 < each.score < 1 for each in outcome.candidates)


@model
@quietly
@pytest.mark.parametrize("labels", [1, 2])
async def test_vllm_in_process_equals_a_plain_forward_pass(tmp_path: Path, labels: int) -> None:
    directory = save_tiny(tmp_path, labels=labels)
    expected = [head_probability(tuple(each), 1) for each in plain_logits(directory, TEXTS)]
    async with started(backend="vllm", model=str(directory), timeout_s=120) as verifier:
        await verifier.check()
        together = [each.value for each in await ask(verifier, *TEXTS)]
        alone = [(await ask(verifier, text))[0].value for text in TEXTS]
        assert await ask(verifier, "7" * LENGTH) == [Score(0.0, abstained=True)]
    gc.collect()  # what vLLM leaves to the collector
    assert together == pytest.approx(expected, abs=1e-3)
    assert alone == pytest.approx(expected, abs=1e-3)
