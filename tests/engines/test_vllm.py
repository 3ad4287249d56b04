"""The vLLM engine with SmolLM2-135M: the contract of all engines, and what it promises beyond."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema
import psutil
import pytest
import pytest_asyncio

from server.engines.vllm_machine import VLLMOptions
from server.models import SilentProgress, resolve
from tests.engines.contract import CONTRACT, Subject
from verifiers.errors import BadRequest, EngineError, EngineUnavailable
from verifiers.types import Chunk, Continuation, Engine, Prompt, Reply, Sampling, Usage

pytestmark = [
    pytest.mark.model,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's and torch's own
]

STORY = Prompt(({"role": "user", "content": "Tell me a story about a fox and a river."},))
ASK = Prompt(({"role": "user", "content": 'Answer in JSON, in one line, such as {"a": 1}.'},))
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Look up the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@dataclass
class Sample:
    """All chunks of one sample, added up."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Any, ...] = ()
    usage: Usage = field(default_factory=Usage)
    last: Chunk = field(default_factory=lambda: Chunk(0))


END = 2
"""SmolLM2's `<|im_end|>`."""


async def draw(engine: Engine, prompt: Prompt = STORY, n: int = 1, **sampling: Any) -> list[Sample]:
    samples: dict[int, Sample] = defaultdict(Sample)
    async for chunk in engine.generate(prompt, Sampling(**{"max_tokens": 16} | sampling), n):
        sample = samples[chunk.index]
        sample.text += chunk.text
        sample.token_ids += chunk.token_ids
        sample.logprobs += chunk.logprobs
        sample.usage += chunk.usage
        sample.last = chunk
    return [samples[index] for index in range(n)]


async def start(**options: Any) -> Engine:
    from server.engines.vllm import VLLMEngine

    path = resolve("smollm2-135m-instruct", SilentProgress()).path
    return await VLLMEngine.start(path, "smollm2", VLLMOptions(**options))


@pytest.fixture(autouse=True)
def collect_garbage() -> Iterator[None]:
    """vLLM leaves sockets to the collector, whose warnings are ignored only in this module."""
    yield
    gc.collect()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    engine = await start(max_model_len=2048)
    yield engine
    await engine.aclose()
    gc.collect()


class Meter:
    """Counts tokens where vLLM's own process hands them over, below everything of ours."""

    def __init__(self, engine: Engine) -> None:
        self._core: Any = engine._running_core()  # type: ignore[attr-defined]
        self._get_output = self._core.engine_core.get_output_async
        self._last = 0.0
        self.tokens = 0
        self._core.engine_core.get_output_async = self._count

    async def _count(self) -> Any:
        outputs = await self._get_output()
        self.tokens += sum(len(output.new_token_ids) for output in outputs.outputs)
        self._last = time.monotonic()
        return outputs

    def requests(self) -> int:
        """Return how many requests vLLM knows."""
        requests: int = self._core.get_num_unfinished_requests()
        return requests

    def running(self) -> int:
        """Return them, or one while the last step's tokens may still be on their way."""
        return self.requests() or int(time.monotonic() - self._last < 0.5)


@pytest.fixture(scope="module")
def meter(engine: Engine) -> Meter:
    return Meter(engine)


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
async def test_contract(
    engine: Engine, meter: Meter, promise: Callable[[Subject], Awaitable[None]]
) -> None:
    await promise(
        Subject(
            engine,
            lambda: meter.tokens,
            meter.running,
            slow=lambda _: None,  # as slow as it is
            fail_one=None,
            repeatable=False,
        )
    )


async def test_capabilities_name_what_the_model_can_do(engine: Engine) -> None:
    assert engine.model == "smollm2"
    capabilities = engine.capabilities
    assert (capabilities.context_length, capabilities.logprobs) == (2048, 20)
    assert capabilities.continuation is Continuation.TOKEN_IDS
    assert capabilities.seeds
    assert capabilities.grammars
    assert not capabilities.tools  # this model's template does not show them
    assert capabilities.adapters == ()


async def test_a_group_shares_the_whole_blocks_of_its_prompt(engine: Engine) -> None:
    prompt = Prompt(({"role": "user", "content": "river stone cloud " * 40},))
    length = await engine.count_tokens(prompt)
    samples = await draw(engine, prompt, n=8, max_tokens=1)
    computed = [sample.usage.prompt_tokens - sample.usage.cached_tokens for sample in samples]
    assert all(sample.usage.prompt_tokens == length for sample in samples)
    assert sorted(computed) == [(length - 1) % 32 + 1] * 7 + [length]


async def test_prompts_with_other_salts_are_not_found_in_the_cache(engine: Engine) -> None:
    prompt = Prompt(({"role": "user", "content": "lantern harbour moss " * 40},))
    plain = replace(prompt, messages=({"role": "user", "content": "amber " * 200},), plain=True)
    for each in (prompt, plain):
        cached = []
        for salt in ("first", "second", "first", None, "second"):
            (sample,) = await draw(engine, replace(each, cache_salt=salt), max_tokens=1)
            cached.append(sample.usage.cached_tokens > 0)
        assert cached == [False, False, True, False, True]


async def test_whole_and_incremental_samples_are_counted_alike(engine: Engine) -> None:
    (whole,) = await draw(engine, max_tokens=20, min_tokens=20, seed=5)
    (pieces,) = await draw(engine, max_tokens=20, min_tokens=20, seed=5, incremental=True)
    assert whole.text == pieces.text
    assert whole.token_ids == pieces.token_ids
    assert whole.usage.completion_tokens == pieces.usage.completion_tokens == 20
    assert whole.last.token_ids == whole.token_ids
    assert len(pieces.last.token_ids) == 1
    assert whole.last.finish_reason == pieces.last.finish_reason == "length"


async def test_seeds_repeat_in_the_same_batch_and_differ_within_it(engine: Engine) -> None:
    first, again, other = [
        [sample.token_ids for sample in await draw(engine, n=4, seed=seed, temperature=1.0)]
        for seed in (7, 7, 8)
    ]
    assert first == again
    assert len({*first, *other}) == 8  # seed + index would make three of them equal


async def test_a_part_of_a_group_has_the_seeds_of_its_places(engine: Engine) -> None:
    group = await draw(engine, n=4, seed=9, temperature=1.5, max_tokens=1)
    part = await draw(engine, n=2, seed=9, first=2, temperature=1.5, max_tokens=1)
    assert [sample.text for sample in part] == [sample.text for sample in group[2:]]


async def test_greedy_samples_of_a_group_are_equal(engine: Engine) -> None:
    first, second = await draw(engine, n=2, temperature=0.0, max_tokens=8)
    assert first.token_ids == second.token_ids


async def test_a_reply_is_continued_by_its_ids_from_the_cache(engine: Engine) -> None:
    (whole,) = await draw(engine, temperature=0.0, max_tokens=60, min_tokens=60)
    length = await engine.count_tokens(STORY)
    reply = Reply("this text must not be used", whole.token_ids[:40])
    continued = replace(STORY, reply=reply)
    (rest,) = await draw(engine, continued, temperature=0.0, max_tokens=20)
    assert await engine.count_tokens(continued) == length + 40
    assert rest.usage.prompt_tokens == length + 40
    assert rest.usage.cached_tokens >= (length + 39) // 32 * 32 - 32
    assert rest.token_ids[:3] == whole.token_ids[40:43]  # later ones may drift in bf16


async def test_a_reply_without_ids_is_continued_by_its_text(engine: Engine) -> None:
    length = await engine.count_tokens(STORY)
    continued = replace(STORY, reply=Reply("Once upon a time, there was a"))
    assert await engine.count_tokens(continued) == length + 8


async def test_content_parts_read_like_one_text(engine: Engine) -> None:
    parts = [{"type": "text", "text": STORY.messages[0]["content"]}]
    assert await engine.count_tokens(
        Prompt(({"role": "user", "content": parts},))
    ) == await engine.count_tokens(STORY)
    assert STORY.messages[0]["content"] != parts


@pytest.mark.parametrize("keep", [True, False])
async def test_a_stop_string_ends_the_sample(engine: Engine, keep: bool) -> None:
    (sample,) = await draw(engine, stop=(" the",), keep_stop=keep, max_tokens=200, seed=1)
    assert sample.last.finish_reason == "stop"
    assert sample.last.stop_reason == " the"
    assert sample.text.endswith(" the") is keep


async def test_max_tokens_is_cut_to_the_room_in_the_context(engine: Engine) -> None:
    length = await engine.count_tokens(STORY)
    reply = Reply("", (28,) * (2048 - length - 5))
    (sample,) = await draw(engine, replace(STORY, reply=reply), max_tokens=999, min_tokens=5)
    assert sample.usage.completion_tokens == 5
    assert sample.last.finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (replace(STORY, reply=Reply("", (28,) * 2048)), "messages"),
        (Prompt(({"role": "user", "content": "word " * 3000},)), "messages"),
        (Prompt(({"role": "user", "content": "word " * 90_000},)), "messages"),
        (replace(STORY, tools=(TOOL,)), "tool_choice"),
        (replace(STORY, adapter="unknown"), "model"),
        (
            replace(STORY, response_format={"type": "regex", "regex": "("}),
            "response_format",
        ),
        (
            replace(
                STORY,
                tools=(TOOL,),
                tool_choice={"type": "function", "function": {"name": "unknown"}},
            ),
            "tool_choice",
        ),
        (replace(STORY, response_format={"type": "json_schema"}), "response_format"),
    ],
)
async def test_what_cannot_be_served_names_the_field(
    engine: Engine, prompt: Prompt, param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        await draw(engine, prompt, n=3)
    assert caught.value.param == param


async def test_logprobs_are_of_the_sampled_token_and_the_likeliest(engine: Engine) -> None:
    (none,) = await draw(engine)
    (own,) = await draw(engine, logprobs=0, seed=3)
    (five,) = await draw(engine, logprobs=5, seed=3, incremental=True, temperature=1.5)
    assert none.logprobs == ()
    assert len(own.logprobs) == len(own.token_ids)
    assert all(entry.top == () and entry.logprob <= 0 for entry in own.logprobs)
    for entry in five.logprobs:
        values = [value for _, value in entry.top]
        assert len(values) == 5
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1.001
        assert entry.logprob <= values[0]
    assert "".join(entry.token for entry in five.logprobs) == five.text


async def test_characters_of_several_tokens_are_decoded_whole(engine: Engine) -> None:
    prompt = replace(STORY, response_format={"type": "regex", "regex": "(🦊|嚢){6}"})
    (sample,) = await draw(engine, prompt, logprobs=0, max_tokens=60)
    assert len(sample.text) == 6
    assert set(sample.text) <= {"🦊", "嚢"}
    tokens = "".join(entry.token for entry in sample.logprobs)
    assert tokens.removesuffix("<|im_end|>") == sample.text


async def test_a_json_schema_is_obeyed(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"year": {"type": "integer", "minimum": 1000, "maximum": 2999}},
        "required": ["year"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    prompt = replace(ASK, response_format=response_format)
    for sample in await draw(engine, prompt, n=4, max_tokens=100, temperature=0.3):
        jsonschema.validate(json.loads(sample.text), schema)


async def test_a_json_object_and_a_regex_are_obeyed(engine: Engine) -> None:
    prompt = replace(STORY, response_format={"type": "regex", "regex": "[0-9]{3}-(ab|cd)"})
    for sample in await draw(engine, prompt, n=4):
        assert sample.text[3:] in ("-ab", "-cd")
        assert sample.text[:3].isdigit()
    prompt = replace(STORY, response_format={"type": "json_object"})
    (sample,) = await draw(engine, prompt, max_tokens=8)
    assert sample.text.lstrip().startswith("{")


@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
async def test_a_forced_tool_is_called(engine: Engine, choice: Any, incremental: bool) -> None:
    prompt = replace(ASK, tools=(TOOL,), tool_choice=choice, parallel_tool_calls=False)
    sampling = Sampling(max_tokens=200, temperature=0.0, incremental=incremental)
    seen = []
    async for chunk in engine.generate(prompt, sampling):
        assert chunk.message is not None
        seen.append(chunk)
    *earlier, last = seen
    assert all(not chunk.message.content and not chunk.message.tool_calls for chunk in earlier)
    (call,) = last.message.tool_calls
    assert last.finish_reason == "tool_calls"
    assert last.message.content == ""
    assert call["type"] == "function"
    assert call["id"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Rome", "Oslo")


async def test_tools_that_must_not_be_used_leave_the_text_alone(engine: Engine) -> None:
    (sample,) = await draw(engine, replace(STORY, tools=(TOOL,), tool_choice="none"))
    assert sample.last.message is None
    assert sample.text


async def test_replies_go_on_after_their_end_if_asked_to(engine: Engine) -> None:
    wanted: dict[str, Any] = {"logit_bias": {str(END): 100.0}, "max_tokens": 9}
    (ended,) = await draw(engine, **wanted)
    (longer,) = await draw(engine, ignore_eos=True, **wanted)
    assert (ended.usage.completion_tokens, ended.last.finish_reason) == (1, "stop")
    assert (longer.usage.completion_tokens, longer.last.finish_reason) == (9, "length")


async def test_many_invalid_samples_are_one_error(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BadRequest, match="min_tokens"):
        await draw(engine, n=5, min_tokens=50, max_tokens=5)
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def rate(engine: Engine, tokens: int = 40) -> float:
    """Decode one sample and return tokens a second after the first."""
    sampling = Sampling(tokens, min_tokens=tokens, incremental=True)
    times = [time.perf_counter() async for _ in engine.generate(STORY, sampling)]
    return (tokens - 1) / (times[-1] - times[0])


async def consume(engine: Engine, n: int, started: asyncio.Event) -> None:
    sampling = Sampling(1500, min_tokens=1500, incremental=True)
    seen = set()
    async with aclosing(engine.generate(STORY, sampling, n)) as chunks:
        async for chunk in chunks:
            seen.add(chunk.index)
            if len(seen) == n:
                started.set()


async def test_closing_the_generator_stops_the_work(engine: Engine, meter: Meter) -> None:
    await rate(engine)
    for _attempt in range(3):  # other processes share these cores
        unloaded = await rate(engine)
        started = asyncio.Event()
        task = asyncio.create_task(consume(engine, 60, started))
        await started.wait()
        loaded = await rate(engine, 10)
        task.cancel()
        await asyncio.wait([task])
        assert not meter.requests()
        after = await rate(engine)
        if after >= 0.8 * unloaded > loaded:
            return
    pytest.fail(f"{unloaded:.1f} tokens/s alone, {loaded:.1f} beside, {after:.1f} after closing")


def engine_processes() -> Sequence[psutil.Process]:
    resource_tracker.ensure_running()  # it stays: count it from the beginning
    return psutil.Process(os.getpid()).children(recursive=True)


async def test_an_interrupt_does_not_reach_the_engine(engine: Engine) -> None:
    for child in multiprocessing.active_children():
        for process in (psutil.Process(child.pid), *psutil.Process(child.pid).children(True)):
            process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.5)
    (sample,) = await draw(engine, max_tokens=4, min_tokens=4)
    assert sample.usage.completion_tokens == 4


async def test_a_seed_outlives_a_prompt_that_is_computed_in_parts() -> None:
    prompt = Prompt(({"role": "user", "content": "river stone cloud " * 200},))
    engine = await start(
        max_model_len=1024,
        kv_cache_gib=0.25,
        engine_arguments={"max_num_batched_tokens": 128, "enable_prefix_caching": False},
    )
    try:
        async with asyncio.TaskGroup() as group:
            several = [
                group.create_task(draw(engine, prompt, 4, seed=seed, temperature=1.0))
                for seed in (5, 5, 6)
            ]
        (alone,) = await draw(engine, prompt, seed=5, temperature=1.0)
    finally:
        await engine.aclose()
    first, again, other = ([each.token_ids for each in task.result()] for task in several)
    assert first[0][0] == again[0][0] == alone.token_ids[0]
    assert len({ids[0] for ids in first + other}) > 1


def write_adapter(path: Path, model: Path, *, rank: int = 4, seed: int = 0) -> Path:
    """Write a LoRA adapter with large random weights, in PEFT's format."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((model / "config.json").read_text())
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    torch.manual_seed(seed)
    weights = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(rank, width)
        weights[f"{name}.lora_B.weight"] = torch.randn(width, rank)
    path.mkdir()
    save_file(weights, path / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["o_proj"]}
    fields |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(model)}
    (path / "adapter_config.json").write_text(json.dumps(fields))
    return path


async def test_an_adapter_is_used_by_name_and_the_end_is_clean(tmp_path: Path) -> None:
    model = resolve("smollm2-135m-instruct", SilentProgress()).path
    adapter = write_adapter(tmp_path / "noise", model)
    before = {process.pid for process in engine_processes()}
    engine = await start(adapters={"noise": adapter}, max_model_len=512)
    assert engine.capabilities.adapters == ("noise",)
    (plain,) = await draw(engine, temperature=0.0)
    (noisy,) = await draw(engine, replace(STORY, adapter="noise"), temperature=0.0)
    (again,) = await draw(engine, temperature=0.0)
    assert plain.token_ids == again.token_ids != noisy.token_ids
    running = asyncio.create_task(draw(engine, max_tokens=400, min_tokens=400))
    await asyncio.sleep(0.5)
    await engine.aclose()
    with pytest.raises(EngineUnavailable):
        await running
    with pytest.raises(EngineUnavailable):
        await draw(engine)
    left = {process.pid for process in engine_processes() if process.is_running()} - before
    assert not left


async def test_adapters_come_and_go_while_it_runs(tmp_path: Path) -> None:
    model = resolve("smollm2-135m-instruct", SilentProgress()).path
    first, second, wide, spoilt = (
        write_adapter(tmp_path / name, model, rank=rank, seed=seed)
        for seed, (name, rank) in enumerate(
            {"first": 4, "second": 4, "wide": 64, "spoilt": 4}.items()
        )
    )
    (spoilt / "adapter_model.safetensors").write_bytes(b"spoilt")
    prompt = Prompt(({"role": "user", "content": "river stone cloud " * 40},))  # whole blocks

    async def said(adapter: str | None) -> tuple[int, ...]:
        (sample,) = await draw(engine, replace(prompt, adapter=adapter), temperature=0.0)
        return sample.token_ids

    engine: Any = await start(adapter_slots=2, max_model_len=512, kv_cache_gib=0.25)
    try:
        assert engine.capabilities.adapters == ()
        plain = await said(None)
        await engine.add_adapter("a@1", first)
        by_first = [await said("a@1"), await said("a@1")]
        running = asyncio.create_task(
            draw(engine, replace(STORY, adapter="a@1"), max_tokens=40, min_tokens=40)
        )
        await engine.add_adapter("a@2", second)
        assert engine.capabilities.adapters == ("a@1", "a@2")
        by_second = await said("a@2")
        (sample,) = await running
        assert sample.usage.completion_tokens == 40
        assert by_first[0] == by_first[1]
        assert len({plain, by_first[0], by_second}) == 3
        await engine.remove_adapter("a@1")
        with pytest.raises(BadRequest):
            await said("a@1")
        for broken in (wide, spoilt, tmp_path / "nothing"):
            with pytest.raises(EngineError, match="vLLM cannot load the adapter a@3"):
                await engine.add_adapter("a@3", broken)
        assert await said("a@2") == by_second  # which is still there, and the engine alive
        await engine._running_core().reset_prefix_cache()
        assert await said("a@2") == by_second  # as nothing of the first one's cache was in it
        await engine.add_adapter("a@1", first)
        assert await said("a@1") == by_first[0]
    finally:
        await engine.aclose()


async def test_a_killed_server_takes_its_engine_along() -> None:
    script = (
        "import asyncio\n"
        "from tests.engines.test_vllm import start\n"
        "async def serve():\n"
        "    engine = await start(max_model_len=512)\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(serve())\n"
    )
    with TemporaryDirectory() as directory:
        file = Path(directory) / "serve.py"
        file.write_text(script)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(file),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert process.stdout is not None
        while await process.stdout.readline() != b"ready\n":
            assert process.returncode is None
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        await process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, family, 20)
        assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


async def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    from server.engines.vllm import VLLMEngine

    with pytest.raises(EngineError, match=str(tmp_path)):
        await VLLMEngine.start(tmp_path, "nothing")


async def test_a_cancelled_start_leaves_no_process() -> None:
    before = {process.pid for process in engine_processes()}
    task = asyncio.create_task(start())
    while not {process.pid for process in engine_processes()} - before:
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = [process for process in engine_processes() if process.pid not in before]
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
