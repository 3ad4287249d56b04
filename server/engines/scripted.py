"""A deterministic engine without a model: the test double of the seam."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from server.engines.scripts import Replies, Script, arithmetic, joined, split
from verifiers.errors import BadRequest
from verifiers.types import TOKEN_IDS, Capabilities, Chunk, Continuation, Prompt, Sampling

Failure: TypeAlias = Callable[[Prompt, int], Exception | None]

_CAPABILITIES = Capabilities(
    32_768,
    Continuation.TOKEN_IDS,
    seeds=True,
    logprobs=20,
    reply_logprobs=True,
    counts_live=True,
    grammars=True,
    tools=True,
    plain=True,
)


class ScriptedEngine:
    """Says what its script says, token by token; `log` and `running` are the truth for tests."""

    def __init__(
        self,
        script: Script = arithmetic,
        *,
        model: str = "scripted",
        delay: float = 0.0,
        fail: Failure | None = None,
        capabilities: Capabilities = _CAPABILITIES,
        adapter_slots: int = 0,
    ) -> None:
        self.model, self.capabilities = model, capabilities
        self.adapter_slots = adapter_slots
        self.log: Counter[str] = Counter()
        """Samples started, finished, failed and aborted, and the tokens generated in them."""
        self.delay, self.fail, self._replies = delay, fail, Replies(script)
        self._read = 0

    @property
    def running(self) -> int:
        """Samples that generate now."""
        return self.log["started"] - sum(self.log[e] for e in ("finished", "failed", "aborted"))

    @property
    def statistics(self) -> Mapping[str, float]:
        """What its log says, under vLLM's names: nothing waits here, or is cached."""
        return {
            "generated_tokens_total": self.log["tokens"],
            "prompt_tokens_total": self._read,
            "prefix_cache_queried_tokens_total": self._read,
            "prefix_cache_hit_tokens_total": 0,
            "preemptions_total": 0,
            "running_requests": self.running,
            "waiting_requests": 0,
            "kv_cache_usage_ratio": 0.0,
        }

    async def count_tokens(self, prompt: Prompt) -> int:
        """Count words, or a plain prompt's ids, and the tokens of the reply to go on with."""
        given = prompt.messages[0].get(TOKEN_IDS, ()) if prompt.plain else ()
        words = sum(len(str(message.get("content") or "").split()) for message in prompt.messages)
        return (len(given) or words) + len(prompt.reply.token_ids if prompt.reply else ())

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Number the words: ids that no reply of a script has."""
        return tuple(range(len(split(text))))

    async def add_adapter(self, name: str, directory: Path) -> None:  # noqa: ARG002
        """Take an adapter's name: its script sees it in the prompt."""
        self._hold(*self.capabilities.adapters, name)

    async def remove_adapter(self, name: str) -> None:
        """Forget the name: prompts with it are refused from now on."""
        self._hold(*(each for each in self.capabilities.adapters if each != name))

    def _hold(self, *adapters: str) -> None:
        self.capabilities = replace(self.capabilities, adapters=adapters)

    async def aclose(self) -> None:
        """Nothing to release."""

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        """Let every live sample make one token per `delay` seconds."""
        prompt_tokens = await self.count_tokens(prompt)
        room = self.capabilities.context_length - prompt_tokens
        if not prompt.messages or room < 1:
            raise BadRequest("the messages are empty or exceed the context", param="messages")
        if prompt.adapter is not None and prompt.adapter not in self.capabilities.adapters:
            raise BadRequest(f"the engine has no adapter {prompt.adapter!r}", param="model")
        live = {i: self._replies.plan(prompt, sampling, i, prompt_tokens, room) for i in range(n)}
        self.log["started"] += n
        self._read += n * prompt_tokens
        try:
            for index in tuple(live):
                if self.fail is not None and (error := self.fail(prompt, index)):
                    del live[index]
                    self.log["failed"] += 1
                    yield Chunk(index, error=error)
            step = 0
            while live:
                await asyncio.sleep(self.delay)
                for index, chunks in tuple(live.items()):
                    self.log["tokens"] += chunks[step].usage.completion_tokens
                    if last := step + 1 == len(chunks):
                        del live[index]
                        self.log["finished"] += 1
                    if sampling.incremental:
                        yield chunks[step]
                    elif last:
                        yield joined(chunks)
                step += 1
        finally:
            self.log["aborted"] += len(live)
