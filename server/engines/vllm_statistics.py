"""vLLM's own counts, step by step, for `/metrics`: independent of what sessions book."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

COUNTERS = (
    "generated_tokens",
    "prompt_tokens",
    "preemptions",
    "prefix_cache_queried_tokens",
    "prefix_cache_hit_tokens",
)


class Statistics(StatLoggerBase):  # type: ignore[misc]
    """Adds up what vLLM says of each engine step; vLLM makes one, `EngineStatistics` keeps it.

    Tokens of a sample that was stopped count up to the step in which vLLM learned of it.
    """

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:  # noqa: ARG002
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.gauges: dict[str, float] = {}

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,  # noqa: ARG002
        engine_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Take a step's numbers; either part may be missing."""
        if scheduler_stats is not None:
            self.gauges["running_requests"] = scheduler_stats.num_running_reqs
            self.gauges["waiting_requests"] = scheduler_stats.num_waiting_reqs
            self.gauges["kv_cache_usage_ratio"] = scheduler_stats.kv_cache_usage
            prefix = scheduler_stats.prefix_cache_stats
            self.counters["prefix_cache_queried_tokens"] += prefix.queries
            self.counters["prefix_cache_hit_tokens"] += prefix.hits
        if iteration_stats is not None:
            self.counters["generated_tokens"] += iteration_stats.num_generation_tokens
            self.counters["prompt_tokens"] += iteration_stats.num_prompt_tokens
            self.counters["preemptions"] += iteration_stats.num_preempted_reqs

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


class EngineStatistics:
    """The statistics of all engine cores of one `AsyncLLM`; it is the factory that vLLM asks."""

    def __init__(self) -> None:
        self._cores: list[Statistics] = []

    def __call__(self, vllm_config: Any, engine_index: int) -> Statistics:
        """Make the logger of one core."""
        core = Statistics(vllm_config, engine_index)
        self._cores.append(core)
        return core

    def read(self) -> Mapping[str, float]:
        """Return sums over the cores by name; those of counters end with `_total`."""
        sums: Counter[str] = Counter()
        for core in self._cores:
            sums.update({f"{name}_total": count for name, count in core.counters.items()})
            sums.update(core.gauges)
        return dict(sums)
