"""Rollouts of any engine, in an event loop of their own thread; and those of vLLM in process."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from server.build import start_engine
from server.engines.vllm_machine import VLLMOptions
from server.models import SilentProgress, resolve
from server.models.catalogue import read_catalogue
from server.settings import EngineSettings
from strategies.lane import Lane
from training.rollouts.base import Progress, RolloutError, RolloutSettings
from training.rollouts.loop_thread import LoopThread
from verifiers.concurrency import together
from verifiers.types import Candidate, Engine, Prompt, Sampling, sample_seed

if TYPE_CHECKING:
    from server.engines.vllm import VLLMEngine

Result = TypeVar("Result")
Refresh: TypeAlias = Callable[[LoopThread, Any, int], str | None]
"""Gives the model's weights of a step to the engine; returns the adapter to prompt it with."""


class EngineRollouts:
    """Implements `training.rollouts.base.Rollouts` on an engine of whichever kind."""

    def __init__(
        self,
        settings: RolloutSettings,
        start: Callable[[], Coroutine[Any, Any, Engine]],
        refresh: Callable[[Any], Refresh],
    ) -> None:
        """Start the engine in its loop; `refresh` is then made for it."""
        self._loop = LoopThread("rollouts")
        self._stack = AsyncExitStack()
        self._at_once = settings.at_once
        self._step: int | None = None
        self._adapter: str | None = None
        try:
            self._engine = self.run(self._opened(start()))
            self._engines = {
                name: self.run(self._opened(_started(each)))
                for name, each in settings.engines.items()
            }
            self._refresh = refresh(self._engine)
        except BaseException:
            self.close()
            raise

    @property
    def engine(self) -> Engine:
        """What draws."""
        return self._engine

    @property
    def engines(self) -> dict[str, Engine]:
        """The others by name."""
        return self._engines

    @property
    def step(self) -> int | None:
        """The step whose weights draw now."""
        return self._step

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        n: int = 1,
        progress: Progress | None = None,
    ) -> list[list[Candidate]]:
        """Draw n replies to each prompt, all at the same time."""
        room = asyncio.Semaphore(self._at_once)
        whole, drawn = len(prompts) * n, 0

        def ended() -> None:
            nonlocal drawn
            drawn += 1
            if progress is not None:
                progress(drawn, whole)

        async def one(place: int, prompt: Prompt) -> list[Candidate]:
            async with room:
                seed = None if sampling.seed is None else sample_seed(sampling.seed, place)
                asked = replace(prompt, adapter=prompt.adapter or self._adapter)
                return await draw(
                    self._engine, asked, replace(sampling, seed=seed), n, str(place), ended
                )

        return self.run(together(one(place, each) for place, each in enumerate(prompts)))

    def refresh(self, model: Any, step: int) -> None:
        """Draw from this model's weights from now on."""
        self._adapter = self._refresh(self._loop, model, step)
        self._step = step

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the engine's event loop."""
        return self._loop.run(work)

    def close(self) -> None:
        """End the engines, then the loop; twice does no harm."""
        if self._loop.closed:
            return
        try:
            self.run(self._stack.aclose())
        finally:
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _opened(self, starting: Coroutine[Any, Any, Engine]) -> Engine:
        return await self._stack.enter_async_context(aclosing(await starting))


async def draw(
    engine: Engine,
    prompt: Prompt,
    sampling: Sampling,
    n: int,
    path: str,
    ended: Callable[[], None] = lambda: None,
) -> list[Candidate]:
    """Draw n whole replies; candidate i is called `path.i`. Raises what a reply failed with."""
    lanes = [
        Lane.of(index, Candidate(f"{path}.{index}"), sampling.max_tokens) for index in range(n)
    ]
    async with aclosing(engine.generate(prompt, sampling, n)) as chunks:
        async for chunk in chunks:
            if chunk.error is not None:
                raise chunk.error
            lane = lanes[chunk.index]
            lane.take(chunk)
            if chunk.finish_reason is not None:
                lane.finish_reason, lane.stop_reason = chunk.finish_reason, chunk.stop_reason
                ended()
    return [lane.snapshot() for lane in lanes]


def open_vllm(settings: RolloutSettings, model_directory: Path) -> EngineRollouts:
    """Start vLLM in this process. Raises EngineError."""
    # A fork of a process whose threads compute may wait for ever; and of each refresh, vLLM warns
    # that a tied output layer is not in the file.
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from server.engines.vllm import VLLMEngine

    merged = settings.weights == "merged"
    options = settings.options if merged else _adaptable(settings)
    return EngineRollouts(
        settings,
        lambda: VLLMEngine.start(model_directory, "policy", options),
        _merging if merged else _adapting,
    )


def _merging(engine: VLLMEngine) -> Refresh:
    """Give it whole weights."""

    def refresh(loop: LoopThread, model: Any, step: int) -> None:  # noqa: ARG001
        from training.rollouts.merged_weights import written_weights

        with written_weights(model, engine.dtype) as directory:
            loop.run(engine.load_weights(directory))

    return refresh


def _adaptable(settings: RolloutSettings) -> VLLMOptions:
    """Let vLLM take adapters that are not there yet: the next one beside the one in use."""
    return settings.options.model_copy(
        update={"adapter_slots": 2, "max_lora_rank": settings.adapter_rank}
    )


def _adapting(engine: VLLMEngine) -> Refresh:
    """Give it an adapter under a name that none had before: the cache goes by it."""
    held = tempfile.TemporaryDirectory(prefix="forethought-adapters-")
    numbers = count()
    used: list[str] = []

    def refresh(loop: LoopThread, model: Any, step: int) -> str:
        from peft import PeftModel

        if not isinstance(model, PeftModel):
            raise RolloutError('whole weights are trained: say `weights = "merged"`')
        name = f"policy@{step}.{next(numbers)}"
        directory = Path(held.name) / name
        model.save_pretrained(directory, save_embedding_layers=False)
        loop.run(engine.add_adapter(name, directory))
        while used:
            loop.run(engine.remove_adapter(used.pop()))
        used.append(name)
        return name

    return refresh


async def _started(settings: EngineSettings) -> Engine:
    """Start another engine, as a server with these settings would."""
    model = None
    if settings.engine == "vllm":
        model = resolve(settings.model or read_catalogue().default, SilentProgress())
    return await start_engine(settings, model)
