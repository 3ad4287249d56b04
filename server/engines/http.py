"""An engine behind any OpenAI-compatible server: a `vllm serve` cluster, SGLang, llama.cpp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self

from server.engines import http_plain
from server.engines.http_probe import Probed, probe
from server.engines.http_upstream import Upstream
from server.engines.http_wire import (
    StreamedReply,
    failed_reply,
    prompt_fields,
    request_fields,
    token_count,
    whole_replies,
)
from verifiers.errors import BadRequest, EngineError
from verifiers.types import TOKEN_IDS, Capabilities, Chunk, Continuation, Prompt, Sampling, Usage


class HTTPEngine:
    """Draws samples from an upstream, in as few and as cheap requests as their reader allows.

    A group that nobody reads before it ends is one request where the upstream honours `n`.
    Otherwise each sample is a request of its own. A request that fails is the end of its samples:
    each gets a chunk with the error, and with `exact` false where tokens may have gone uncounted.
    """

    def __init__(self, model: str, upstream: Upstream, probed: Probed) -> None:
        self._model = model
        self._upstream = upstream
        self._probed = probed

    @classmethod
    async def start(
        cls,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        connect_timeout: float = 5.0,
        connections: int = 256,
        retries: int = 3,
    ) -> Self:
        """Connect to the API at `base_url` (as `http://host:8000/v1`) and probe what it can do.

        Raises EngineUnavailable where nothing answers, EngineError where the key is refused.
        """
        upstream = Upstream(
            base_url,
            api_key=api_key,
            timeout=timeout,
            connect_timeout=connect_timeout,
            connections=connections,
            retries=retries,
        )
        try:
            probed = await probe(upstream, model)
        except BaseException:
            await upstream.aclose()
            raise
        return cls(model, upstream, probed)

    @property
    def model(self) -> str:
        """The upstream's own name of the model."""
        return self._model

    @property
    def capabilities(self) -> Capabilities:
        """What the probes found."""
        return self._probed.capabilities

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        """Draw n samples; closing closes the connections, at which the upstream stops."""
        if prompt.reply is not None and self.capabilities.continuation is Continuation.NONE:
            raise BadRequest("this engine cannot go on with a reply", param="messages")
        if prompt.plain and not self.capabilities.plain:
            raise BadRequest("this engine takes messages only", param="messages")
        if sampling.incremental:
            replies = [self._streamed(prompt, sampling, index) for index in range(n)]
        elif self.capabilities.together:
            replies = [self._whole(prompt, sampling, 0, n)]
        else:
            replies = [self._whole(prompt, sampling, index, 1) for index in range(n)]
        async with aclosing(replies[0] if len(replies) == 1 else _merged(replies)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk.error, BadRequest):
                    raise chunk.error
                yield chunk

    @property
    def statistics(self) -> Mapping[str, float]:
        """None: the upstream's are its own to show."""
        return {}

    async def count_tokens(self, prompt: Prompt) -> int:
        """Ask the upstream's tokenizer; 0 where it has none for chats."""
        if not self._probed.tokenizes:
            return 0
        if prompt.plain and (token_ids := prompt.messages[0].get(TOKEN_IDS)):
            return len(token_ids)
        body = {"model": prompt.adapter or self._model, **prompt_fields(prompt)}
        return token_count(await self._upstream.post_beside("/tokenize", body))

    async def tokenize(self, text: str) -> tuple[int, ...]:  # noqa: ARG002
        """Return nothing: text is the truth here, and the upstream makes tokens of it."""
        return ()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._upstream.aclose()

    async def _whole(
        self, prompt: Prompt, sampling: Sampling, first: int, n: int
    ) -> AsyncGenerator[Chunk, None]:
        body = self._body(prompt, sampling, first, n)
        try:
            answer = await self._upstream.post(_path(prompt), body)
            told = http_plain.as_chat(answer) if prompt.plain else answer
            chunks = whole_replies(told, first, n)
        except (BadRequest, EngineError) as error:
            chunks = [failed_reply(first + place, error, Usage()) for place in range(n)]
        for chunk in chunks:
            yield chunk

    async def _streamed(
        self, prompt: Prompt, sampling: Sampling, index: int
    ) -> AsyncGenerator[Chunk, None]:
        body = self._body(prompt, sampling, index, 1) | {"stream": True}
        if self._probed.stream_options is not None:
            body["stream_options"] = self._probed.stream_options
        reply = StreamedReply(index)
        try:
            async with aclosing(self._upstream.stream(_path(prompt), body)) as events:
                async for event in events:
                    told = http_plain.as_chat(event) if prompt.plain else event
                    if (chunk := reply.feed(told)) is not None:
                        yield chunk
            yield reply.end()
        except (BadRequest, EngineError) as error:
            yield failed_reply(index, error, reply.news())

    def _body(self, prompt: Prompt, sampling: Sampling, first: int, n: int) -> dict[str, Any]:
        model = prompt.adapter or self._model
        body = {"model": model, **request_fields(prompt, sampling, first, n)}
        if prompt.cache_salt is not None and self._probed.salts:
            body["cache_salt"] = prompt.cache_salt
        return body


def _path(prompt: Prompt) -> str:
    return http_plain.PATH if prompt.plain else "/chat/completions"


async def _merged(
    replies: Sequence[AsyncGenerator[Chunk, None]],
) -> AsyncGenerator[Chunk, None]:
    """Run all replies at once and give their chunks as they come.

    The task group lives in a task of its own, as one that spans a `yield` would cancel whoever
    happens to read, and makes a group of GeneratorExit.
    """
    queue: asyncio.Queue[Chunk | None] = asyncio.Queue()

    async def pump(reply: AsyncGenerator[Chunk, None]) -> None:
        async with aclosing(reply):
            async for chunk in reply:
                queue.put_nowait(chunk)

    async def pump_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for reply in replies:
                    group.create_task(pump(reply))
        finally:
            queue.put_nowait(None)

    pumps = asyncio.create_task(pump_all())
    try:
        while (chunk := await queue.get()) is not None:
            yield chunk
        await pumps
    finally:
        pumps.cancel()
        await asyncio.wait([pumps])
