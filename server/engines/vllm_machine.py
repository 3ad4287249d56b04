"""What vLLM is told about the machine: processor settings, cache size, adapters.

The options can be read without vLLM: it is imported where it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from verifiers.errors import EngineError
from verifiers.vllm_process import EngineProcesses, use_all_allowed_cores

_GIB = 1 << 30
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_SLOT_RANK = 32
"""Room for the adapters that people train, where those to come are not known."""
_WORKER_EXTENSION = "server.engines.vllm_worker.Extension"
_OURS = {
    "adapters",
    "adapter_slots",
    "max_lora_rank",
    "engine_arguments",
    "kv_cache_gib",
    "tool_parser",
}
"""Options that are not vLLM's arguments of the same name."""


class VLLMOptions(BaseModel):
    """What a user may set; `None` leaves the choice to the machine or to vLLM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str = Field("auto", description="Type of weights and activations.")
    max_model_len: int | None = Field(None, ge=32, description="Context length in tokens.")
    max_num_seqs: int | None = Field(None, ge=1, description="Most samples in one batch.")
    block_size: int | None = Field(None, ge=1, description="Tokens per block of the KV cache.")
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    kv_cache_gib: float | None = Field(None, gt=0, description="Size of the KV cache.")
    enforce_eager: bool | None = Field(
        None, description="Do not compile. On a CPU the default: a third of the start-up time."
    )
    tool_parser: str | None = Field(None, description="vLLM's parser for `tool_choice: auto`.")
    reasoning_parser: str | None = Field(None, description="vLLM's parser for the thinking.")
    adapters: Mapping[str, Path] = Field(
        default_factory=dict, description="LoRA adapters: name to directory."
    )
    adapter_slots: int = Field(
        0,
        ge=0,
        le=64,
        description="LoRA adapters that can be loaded while it runs: one for each promoted "
        "checkpoint, and one more, as the version before is used until its requests end.",
    )
    max_lora_rank: int | None = Field(
        None,
        ge=1,
        le=_LORA_RANKS[-1],
        description="Highest rank of an adapter. Default: that of `adapters`; with slots, at "
        "least 32.",
    )
    engine_arguments: Mapping[str, Any] = Field(
        default_factory=dict, description="Any other of vLLM's AsyncEngineArgs."
    )


def engine_config(path: str, options: VLLMOptions) -> Any:
    """Turn the options into vLLM's own configuration, with the gaps filled from the machine.

    Sets the environment variables that vLLM's worker processes inherit; one that is already
    set wins.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    on_cpu = current_platform.is_cpu()
    arguments = _engine_arguments(options, on_cpu=on_cpu)
    if on_cpu:
        if arguments.get("tensor_parallel_size", 1) == 1:
            use_all_allowed_cores()  # else vLLM gives each worker the cores of one NUMA node
        if arguments["enforce_eager"]:
            # The first request with log-probabilities would still compile a kernel: 30 seconds.
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    config = AsyncEngineArgs(model=path, **arguments).create_engine_config(
        UsageContext.OPENAI_API_SERVER
    )
    if on_cpu and config.cache_config.kv_cache_memory_bytes is None:
        config.cache_config.kv_cache_memory_bytes = _kv_cache_bytes(config, path)
    return config


def _engine_arguments(options: VLLMOptions, *, on_cpu: bool) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "worker_extension_cls": _WORKER_EXTENSION,
        "disable_log_stats": True,
        "enable_prefix_caching": True,
        # vLLM's default lets JSON have any white space: small models then write nothing else until
        # their tokens are used up. Of the backends that can forbid it, this one knows the tags by
        # which tool parsers force a call.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    if on_cpu:
        # vLLM's own block size on a CPU is 128, and samples share whole blocks of a prompt only.
        # 32 is the least that its fast attention kernels take.
        chosen |= {"block_size": 32, "enforce_eager": True, "max_num_seqs": 64}
    if options.adapters or options.adapter_slots:
        chosen |= {
            "enable_lora": True,
            "max_loras": min(len(options.adapters), 8) + options.adapter_slots,
            # One that was pushed out would be read again, whatever its files are by then.
            "max_cpu_loras": len(options.adapters) + options.adapter_slots,
            "max_lora_rank": _lora_rank(options),
        }
    if options.kv_cache_gib is not None:
        chosen["kv_cache_memory_bytes"] = int(options.kv_cache_gib * _GIB)
    named = options.model_dump(exclude=_OURS, exclude_none=True)
    return chosen | named | dict(options.engine_arguments)


def _lora_rank(options: VLLMOptions) -> int:
    paths = options.adapters.values()
    ranks = [json.loads((path / "adapter_config.json").read_text())["r"] for path in paths]
    ranks.append(options.max_lora_rank or (_SLOT_RANK if options.adapter_slots else 1))
    fitting = [rank for rank in _LORA_RANKS if rank >= max(ranks)]
    if not fitting:
        raise EngineError(f"vLLM serves LoRA ranks up to {_LORA_RANKS[-1]}, not {max(ranks)}")
    return fitting[0]


def adapter_digest(path: Path) -> str:
    """Hash an adapter's weights: vLLM's cache keys hold the name, so new weights need a new one."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("adapter_*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _kv_cache_bytes(config: Any, path: str) -> int:
    """Make room for a full batch of 2,048 tokens each, or for one whole context if that is more.

    At most half of the memory that the weights leave free.
    """
    from vllm.utils.cpu_resource_utils import get_memory_node_info

    model, parallel = config.model_config, config.parallel_config
    bytes_per_token = (
        2
        * model.get_num_layers(parallel)
        * model.get_num_kv_heads(parallel)
        * model.get_head_size()
        * model.dtype.itemsize
    )
    batch = config.scheduler_config.max_num_seqs * min(model.max_model_len, 2048)
    wanted = bytes_per_token * max(batch, model.max_model_len + config.cache_config.block_size)
    free = get_memory_node_info().available_memory
    weights = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    return int(min(wanted, max(free - weights, 0) // 2))


async def start_core(
    path: str, options: VLLMOptions, statistics: Callable[[Any, int], Any]
) -> EngineProcesses:
    """Start an `AsyncLLM`, with what ends its processes if ours is killed.

    `statistics` makes what is told of every engine step (vLLM's `StatLoggerFactory`).
    """
    return await EngineProcesses.start(lambda: _make_core(path, options, statistics))


def _make_core(path: str, options: VLLMOptions, statistics: Callable[[Any, int], Any]) -> Any:
    from vllm.exceptions import VLLMError
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        config = engine_config(path, options)
        # True: none of vLLM's own lines in our log.
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True, stat_loggers=[statistics])
    except (ValueError, OSError, RuntimeError, VLLMError) as error:
        raise EngineError(f"vLLM cannot serve {path}: {error}") from error
