"""vLLM's outputs as chunks, and as their readers see them: parsed for thinking and tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.renderers.chat_utils import make_tool_call_id

from verifiers.errors import EngineError, EngineUnavailable
from verifiers.types import (
    Chunk,
    FinishReason,
    JSONObject,
    Message,
    Reply,
    TokenLogprob,
    Usage,
)


class ReplyReader:
    """Reads one sample. It keeps what came before, so the message is always of the whole reply.

    Tool calls are found at the end only: until then nothing of such a reply is visible.
    """

    def __init__(
        self,
        parser: Any,
        request: Any,
        prompt_ids: Sequence[int],
        prefix: Reply,
        *,
        tools: bool,
        incremental: bool,
    ) -> None:
        self._parser = parser
        self._request = request
        self._prompt_ids = list(prompt_ids)
        self._text = prefix.text
        self._token_ids = list(prefix.token_ids)
        self._tools = tools
        self._incremental = incremental and not tools
        self._message = Message()
        if self._incremental and prefix.token_ids:
            self._take_in(prefix)

    def read(self, text: str, token_ids: Sequence[int], *, finished: bool) -> Message:
        """Take in what is new and return the message so far."""
        if self._incremental:
            self._advance(text, list(token_ids), finished=finished)
            return self._message
        self._text += text
        self._token_ids += token_ids
        return self._parse() if finished else Message()

    def _take_in(self, prefix: Reply) -> None:
        """Parse what came before; the mark that opens the thinking must be a piece of its own."""
        first, rest = list(prefix.token_ids[:1]), list(prefix.token_ids[1:])
        mark = self._parser.model_tokenizer.decode(first)
        if prefix.text.startswith(mark):
            self._advance(mark, first, finished=False)
            self._advance(prefix.text.removeprefix(mark), rest, finished=False)
        else:
            self._advance(prefix.text, first + rest, finished=False)

    def _advance(self, text: str, token_ids: list[int], *, finished: bool) -> None:
        delta = self._parser.parse_delta(
            text, token_ids, self._request, prompt_token_ids=self._prompt_ids, finished=finished
        )
        if delta is not None:
            self._message = Message(
                content=self._message.content + (delta.content or ""),
                reasoning=self._message.reasoning + (delta.reasoning or ""),
            )

    def _parse(self) -> Message:
        self._parser.set_prompt_token_ids(self._prompt_ids)
        reasoning, content, calls = self._parser.parse(
            self._text,
            self._request,
            enable_auto_tools=True,
            model_output_token_ids=self._token_ids,
        )
        if not self._tools:
            return Message(content or "", reasoning or "")
        if self._request.parallel_tool_calls is False:
            calls = calls[:1] if calls else calls
        return Message(content or "", reasoning or "", tuple(map(_tool_call, calls or ())))


def _tool_call(call: Any) -> JSONObject:
    return {
        "id": call.id or make_tool_call_id(),
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def read_chunk(
    index: int,
    output: Any,
    reader: ReplyReader | None,
    top_logprobs: int,
    *,
    first: bool,
    given: int = 0,
) -> Chunk:
    """Translate one of vLLM's RequestOutputs; the prompt is counted with the first.

    The last `given` tokens of the prompt are the reply's: theirs are the first log-probabilities,
    where vLLM was asked for those of the prompt.

    Raises EngineUnavailable if vLLM ends before the sample does.
    """
    (completion,) = output.outputs
    token_ids = tuple(completion.token_ids)
    usage = Usage(
        prompt_tokens=len(output.prompt_token_ids) if first else 0,
        cached_tokens=(output.num_cached_tokens or 0) if first else 0,
        completion_tokens=len(token_ids),
    )
    if completion.finish_reason == "abort":  # we abort by closing, so it was vLLM itself
        raise EngineUnavailable("the vLLM engine is stopping")
    if completion.finish_reason == "error":
        failure = EngineError("vLLM failed to generate this sample")
        return Chunk(index, completion.text, token_ids, usage=usage, error=failure)
    message = reader.read(completion.text, token_ids, finished=output.finished) if reader else None
    return Chunk(
        index,
        completion.text,
        token_ids,
        (_given_logprobs(output, given) if first else ())
        + _logprobs(token_ids, completion.logprobs, top_logprobs),
        message,
        _finish_reason(completion.finish_reason, message),
        completion.stop_reason,
        usage,
    )


def _finish_reason(reason: str | None, message: Message | None) -> FinishReason | None:
    if reason is None:
        return None
    if reason == "length":
        return "length"
    return "tool_calls" if message is not None and message.tool_calls else "stop"


def _given_logprobs(output: Any, given: int) -> tuple[TokenLogprob, ...]:
    if output.prompt_logprobs is None:
        return ()
    start = len(output.prompt_token_ids) - given
    return _logprobs(output.prompt_token_ids[start:], output.prompt_logprobs[start:], 0)


def _logprobs(
    token_ids: Sequence[int], places: Sequence[Mapping[int, Any]] | None, top: int
) -> tuple[TokenLogprob, ...]:
    """Pair each token with its entry; a place holds the sampled token and the `top` likeliest."""
    if places is None:
        return ()
    return tuple(
        _token_logprob(place[token_id], _likeliest(place, top))
        for token_id, place in zip(token_ids, places, strict=True)
    )


def _token_logprob(drawn: Any, likeliest: Sequence[tuple[int, Any]]) -> TokenLogprob:
    return TokenLogprob(
        drawn.decoded_token,
        drawn.logprob,
        tuple((entry.decoded_token, entry.logprob) for _, entry in likeliest),
        tuple(token_id for token_id, _ in likeliest),
    )


def _likeliest(place: Mapping[int, Any], top: int) -> list[tuple[int, Any]]:
    if top == 0:
        return []
    return sorted(place.items(), key=lambda item: item[1].logprob, reverse=True)[:top]
