"""A sequence-classification head in a vLLM pooling engine of this server.

vLLM is imported when the engine is started.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Self

from verifiers.concurrency import together
from verifiers.errors import VerifierError, VerifierUnavailable
from verifiers.sequence_classifier import Conversation, ConversationTokenizer, Dtype, Logits
from verifiers.vllm_process import EngineProcesses, use_all_allowed_cores


class VLLMClassifier:
    """One request per reply, started together: vLLM makes the batches."""

    def __init__(
        self, processes: EngineProcesses, tokenizer: ConversationTokenizer, max_tokens: int
    ) -> None:
        from vllm import PoolingParams

        self._processes = processes
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._parameters = PoolingParams(task="classify", use_activation=False)
        self._numbers = count()

    @classmethod
    async def load(
        cls,
        directory: Path,
        *,
        dtype: Dtype = "float32",
        max_tokens: int | None = None,
        engine_arguments: Mapping[str, Any],
    ) -> Self:
        """Start the engine on a model's directory: half a minute. Raises VerifierError."""
        tokenizer = await asyncio.to_thread(ConversationTokenizer, directory)
        arguments = {"dtype": dtype, "max_model_len": max_tokens, **engine_arguments}
        processes = await EngineProcesses.start(lambda: _engine(directory, arguments))
        # Asked for once, it is at hand: later questions are sent without giving up the event loop.
        await processes.core.get_supported_tasks()
        return cls(processes, tokenizer, processes.core.model_config.max_model_len)

    async def logits(self, conversations: Sequence[Conversation]) -> list[Logits | None]:
        """Ask about all at the same time."""
        texts = await asyncio.to_thread(
            lambda: [self._tokenizer.ids(each) for each in conversations]
        )
        return await together(self._one(ids) for ids in texts)

    async def aclose(self) -> None:
        """End vLLM's processes."""
        await self._processes.aclose()

    async def _one(self, ids: list[int]) -> Logits | None:
        from vllm.exceptions import VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError

        if len(ids) > self._max_tokens:
            return None
        prompt = {"prompt_token_ids": ids}
        name = f"reward-{next(self._numbers)}"
        try:
            async for output in self._processes.core.encode(prompt, self._parameters, name):
                if output.error is not None:
                    raise VerifierError(f"vLLM failed: {output.error}")
                if output.finished:
                    return tuple(output.outputs.data.float().tolist())
        except EngineDeadError as error:
            raise VerifierUnavailable("the reward model's engine has stopped") from error
        except VLLMError as error:
            raise VerifierError(f"vLLM failed: {error}") from error
        raise VerifierError("vLLM gave no answer")


def _engine(directory: Path, arguments: Mapping[str, Any]) -> Any:
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.exceptions import VLLMError
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise VerifierError(
            "vLLM is not installed: pip install 'forethought[cpu]' or 'forethought[gpu]'"
        ) from error
    chosen: dict[str, Any] = {"runner": "pooling", "disable_log_stats": True, **arguments}
    if current_platform.is_cpu():
        _fit_to_cpu(chosen)
    try:
        config = AsyncEngineArgs(model=str(directory), **chosen).create_engine_config(
            UsageContext.OPENAI_API_SERVER
        )
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True)
    except (ValueError, TypeError, OSError, RuntimeError, VLLMError) as error:
        raise VerifierError(f"vLLM cannot serve {directory}: {error}") from error


def _fit_to_cpu(arguments: dict[str, Any]) -> None:
    """Do not compile, use all cores, and take little memory: a head decodes nothing."""
    arguments.setdefault("enforce_eager", True)
    arguments.setdefault("kv_cache_memory_bytes", 1 << 28)
    use_all_allowed_cores()
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
