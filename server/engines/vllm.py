"""The vLLM engine in this process: `AsyncLLM`, with its core and workers as children of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Self

try:
    from vllm.exceptions import VLLMClientError, VLLMError
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError
except ImportError as error:
    raise ImportError(
        "vLLM is not installed: pip install 'forethought[cpu]' or 'forethought[gpu]'"
    ) from error

from server.engines.vllm_machine import VLLMOptions, adapter_digest, start_core
from server.engines.vllm_prompt import ChatRenderer, bad_request
from server.engines.vllm_reply import ReplyReader, read_chunk
from server.engines.vllm_statistics import EngineStatistics
from server.engines.vllm_weights import load_weights
from verifiers.errors import BadRequest, EngineError, EngineUnavailable
from verifiers.types import (
    Capabilities,
    Chunk,
    Continuation,
    Prompt,
    Sampling,
    sample_seed,
)
from verifiers.vllm_process import EngineProcesses


class VLLMEngine:
    """One model in vLLM; `start` makes it.

    Each of the n samples of a group is a vLLM request of its own, so that it can be stopped
    alone. They are sent in one turn of the event loop: vLLM then finds the blocks of the first
    one's prompt in its prefix cache for all others, and computes only the last, partial block of
    the prompt for each.
    """

    def __init__(
        self,
        processes: EngineProcesses,
        renderer: ChatRenderer,
        adapters: Mapping[str, LoRARequest],
        model: str,
        capabilities: Capabilities,
        statistics: EngineStatistics,
        adapter_slots: int = 0,
    ) -> None:
        self._processes: EngineProcesses | None = processes
        self._renderer = renderer
        self._adapters = dict(adapters)
        self._adapter_slots = adapter_slots
        self._adapter_numbers = count(len(adapters) + 1)
        self._model = model
        self._capabilities = capabilities
        self._statistics = statistics
        self._request_numbers = count()

    @classmethod
    async def start(cls, path: str | Path, model: str, options: VLLMOptions | None = None) -> Self:
        """Load the model of a directory or hub id, to be served under the name `model`.

        Takes half a minute and more, in another thread. Raises EngineError if it cannot be
        loaded. If cancelled, it leaves no process behind.
        """
        options = options or VLLMOptions()
        statistics = EngineStatistics()
        processes = await start_core(str(path), options, statistics)
        core = processes.core
        renderer = ChatRenderer(core, options.tool_parser, options.reasoning_parser)
        adapters = {
            name: LoRARequest(f"{name}@{adapter_digest(directory)}", number, str(directory))
            for number, (name, directory) in enumerate(options.adapters.items(), start=1)
        }
        capabilities = Capabilities(
            context_length=renderer.context_length,
            continuation=Continuation.TOKEN_IDS,
            seeds=True,
            logprobs=core.model_config.max_logprobs,
            reply_logprobs=True,
            counts_live=True,
            grammars=True,
            tools=await renderer.shows_tools(),
            plain=True,
            end_tokens=renderer.end_tokens,
            adapters=tuple(adapters),
            defaults=renderer.defaults,
        )
        # Asked for once, it is at hand: later requests are sent without giving up the event loop.
        await core.get_supported_tasks()
        slots = options.adapter_slots
        return cls(processes, renderer, adapters, model, capabilities, statistics, slots)

    @property
    def model(self) -> str:
        """The name under which clients ask for this model."""
        return self._model

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return self._capabilities

    @property
    def adapter_slots(self) -> int:
        """How many adapters it can be given while it runs."""
        return self._adapter_slots

    @property
    def statistics(self) -> Mapping[str, float]:
        """What vLLM counts."""
        return self._statistics.read()

    async def count_tokens(self, prompt: Prompt) -> int:
        """Count the prompt's tokens after the chat template."""
        rendered = await self._renderer.render(prompt, Sampling(max_tokens=1))
        return rendered.length

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text, without special tokens around it."""
        return self._renderer.tokenize(text)

    @property
    def dtype(self) -> Any:
        """The type of its weights, torch's."""
        return self._running_core().model_config.dtype

    async def load_weights(self, directory: Path) -> None:
        """Draw from the weights of this directory from now on, of the same architecture.

        Raises EngineError; the engine is then of no more use.
        """
        await _called(load_weights(self._running_core(), directory), f"take {directory}")

    async def add_adapter(self, name: str, directory: Path) -> None:
        """Load an adapter, under a number that none had before. Raises EngineError."""
        request = LoRARequest(name, next(self._adapter_numbers), str(directory))
        await _called(self._running_core().add_lora(request), f"load the adapter {name}")
        self._hold({**self._adapters, name: request})

    async def remove_adapter(self, name: str) -> None:
        """Forget an adapter that no request uses. Raises EngineError."""
        request = self._adapters[name]
        self._hold({key: each for key, each in self._adapters.items() if key != name})
        core = self._running_core()
        await _called(core.remove_lora(request.lora_int_id), f"forget the adapter {name}")

    def _hold(self, adapters: dict[str, LoRARequest]) -> None:
        self._adapters = adapters
        self._capabilities = replace(self._capabilities, adapters=tuple(adapters))

    async def aclose(self) -> None:
        """End vLLM's processes: SIGTERM first, SIGKILL after ten seconds."""
        processes, self._processes = self._processes, None
        if processes is not None:
            await processes.aclose()

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        """Draw n samples of one prompt; closing the generator aborts those that still run."""
        core, adapter = self._running_core(), self._adapter(prompt.adapter)
        rendered = await self._renderer.render(prompt, sampling)
        arrivals: asyncio.Queue[Chunk | asyncio.Task[None]] = asyncio.Queue()

        async def forward(index: int) -> None:
            params = rendered.sampling.clone()
            if sampling.seed is not None:
                params.seed = sample_seed(sampling.seed, sampling.first + index)
            reader = self._renderer.reader(rendered, incremental=sampling.incremental)
            outputs = core.generate(
                rendered.engine_input,
                params,
                str(next(self._request_numbers)),
                lora_request=adapter,
                **rendered.reasoning,
            )
            given = len(rendered.prefix.token_ids)
            try:
                async for chunk in _chunks(index, outputs, reader, sampling.logprobs or 0, given):
                    arrivals.put_nowait(chunk)
            except VLLMClientError as error:
                raise bad_request(error, rendered.grammar_field) from error

        tasks = [asyncio.create_task(forward(index)) for index in range(n)]
        for task in tasks:
            task.add_done_callback(arrivals.put_nowait)
        running = n
        try:
            while running:
                arrival = await arrivals.get()
                if isinstance(arrival, Chunk):
                    yield arrival
                else:
                    arrival.result()
                    running -= 1
        finally:
            await _cancel(tasks)

    def _running_core(self) -> AsyncLLM:
        if self._processes is None:
            raise EngineUnavailable("the vLLM engine is closed")
        core: AsyncLLM = self._processes.core
        return core

    def _adapter(self, name: str | None) -> LoRARequest | None:
        if name is None:
            return None
        if name not in self._adapters:
            raise BadRequest(f"the engine has no adapter {name!r}", param="model")
        return self._adapters[name]


async def _chunks(
    index: int,
    outputs: AsyncGenerator[Any, None],
    reader: ReplyReader | None,
    top_logprobs: int,
    given: int,
) -> AsyncGenerator[Chunk, None]:
    """Translate one sample; raises what stops its whole group, yields what stops it alone."""
    first = True
    try:
        async for output in outputs:
            yield read_chunk(index, output, reader, top_logprobs, first=first, given=given)
            first = False
    except EngineDeadError as error:
        raise EngineUnavailable("the vLLM engine has stopped") from error
    except VLLMClientError:
        raise
    except VLLMError as error:
        yield Chunk(index, error=EngineError(f"vLLM failed: {error}"))


async def _called(call: Coroutine[Any, Any, Any], what: str) -> None:
    """Have the engine's process do something; whatever it fails by comes as a bare Exception."""
    calling = asyncio.ensure_future(call)
    await asyncio.wait([calling])
    if error := calling.exception():
        raise EngineError(f"vLLM cannot {what}: {error}") from error


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel and wait: a cancelled `AsyncLLM.generate` aborts its request in the engine."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # marks it as seen: of many equal failures one has been raised
