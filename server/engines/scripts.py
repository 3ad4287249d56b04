"""What a scripted engine says, planned token by token."""

from __future__ import annotations

import json
import math
import random
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from verifiers.types import (
    Chunk,
    FinishReason,
    Message,
    Prompt,
    Reply,
    Sampling,
    TokenLogprob,
    Usage,
    sample_seed,
)

Script: TypeAlias = Callable[[Prompt, Sampling, int], str | Message]
"""What sample `index` says: its text, or a message whose raw text is made of its parts."""

_TOKEN = re.compile(r" ?\S+|\s+")
_PLACES = 1 << 16
_KEY_BITS = 8 * 5 + 16
"""Bits of a token id; alternatives to it differ from it in higher ones."""
_WORDS = ("so", "then", "7", "+", "12", "=", "19", "gives")


class _Reply(NamedTuple):
    """A whole reply in tokens; token `place` of it has the id `key * _PLACES + place`."""

    key: int
    pieces: tuple[str, ...]
    message: Message | None


class Replies:
    """The replies that a script has given, found again by any of their token ids.

    The script gives the whole reply. The first sample of a prompt that ends in token ids given
    here goes on exactly where they end; all others branch off there: for them, and for foreign
    replies, the script sees `prompt.reply` and gives what follows.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._replies: dict[int, _Reply] = {}
        self._continued: set[int] = set()

    def plan(
        self, prompt: Prompt, sampling: Sampling, index: int, prompt_tokens: int, room: int
    ) -> Sequence[Chunk]:
        """Plan a sample to its end: one chunk per token, at least one."""
        reply, start = self._reply(prompt, sampling, index)
        room = min(sampling.max_tokens, room)
        ids = [reply.key * _PLACES + p for p in range(start, len(reply.pieces))][:room]
        pieces = reply.pieces[start : start + room]
        ends = (0, *accumulate(map(len, pieces)))
        stops = _stops("".join(pieces), ids, ends, sampling)
        stop = min(stops, key=lambda stop: stop[:2], default=None)
        count, shown, stop_reason = stop or (len(pieces), ends[-1], None)
        whole, text = start + count == len(reply.pieces), "".join(pieces)[:shown]
        before = "".join(reply.pieces[:start])
        usage = Usage(0, prompt_tokens, prompt_tokens if index or prompt.reply else 0)
        chunks = []
        for place in range(count):
            message = _parsed(reply.message, before + text[: ends[place + 1]])
            logprobs = _logprobs(pieces[place], ids[place], sampling.logprobs)
            shown_piece = text[ends[place] : ends[place + 1]]
            used = Usage(completion_tokens=1)
            chunks.append(Chunk(index, shown_piece, (ids[place],), logprobs, message, usage=used))
        chunks = chunks or [Chunk(index, message=_parsed(reply.message, before))]
        finish: FinishReason = "stop" if stop or whole else "length"
        if whole and reply.message and reply.message.tool_calls:
            finish = "tool_calls"
            chunks[-1] = replace(chunks[-1], message=reply.message)
        given = _reply_logprobs(prompt.reply) if sampling.reply_logprobs else ()
        first = chunks[0]
        chunks[0] = replace(first, usage=usage + first.usage, logprobs=given + first.logprobs)
        chunks[-1] = replace(chunks[-1], finish_reason=finish, stop_reason=stop_reason)
        return chunks

    def _reply(self, prompt: Prompt, sampling: Sampling, index: int) -> tuple[_Reply, int]:
        """Find or ask for the whole reply, and the place in it where this sample starts."""
        given = prompt.reply.token_ids if prompt.reply else ()
        key, place = divmod(given[-1], _PLACES) if given else (0, 0)
        if given and key in self._replies and given[-1] not in self._continued:
            self._continued.add(given[-1])
            return self._replies[key], place + 1
        said = self._script(prompt, sampling, index)
        message = said if isinstance(said, Message) else None
        text = said if isinstance(said, str) else _raw(said)
        name = f"{given} {text} {message}".encode()
        key = int.from_bytes(blake2b(name, digest_size=5).digest())
        pieces = tuple([""] * len(given) + split(text))
        # Said anew, it can be gone on with anew: equal requests find the engine as it was.
        self._continued.difference_update(range(key * _PLACES, key * _PLACES + len(pieces)))
        return self._replies.setdefault(key, _Reply(key, pieces, message)), len(given)


def split(text: str) -> list[str]:
    """Cut a text into tokens: words with the blank before them, and other white space."""
    return _TOKEN.findall(text)


def arithmetic(prompt: Prompt, sampling: Sampling, index: int) -> str | Message:
    r"""Mutter 5 to 120 words that end in \boxed{k}, or call the tool that is forced."""
    reply = prompt.reply.text if prompt.reply else ""
    said = json.dumps([[dict(message) for message in prompt.messages], reply], sort_keys=True)
    draw = random.Random(f"{sample_seed(sampling.seed or 0, sampling.first + index)} {said}")
    if prompt.tools and prompt.tool_choice not in (None, "auto", "none"):
        named = prompt.tool_choice if isinstance(prompt.tool_choice, Mapping) else prompt.tools[0]
        called = {"name": named["function"]["name"], "arguments": f'{{"x": {draw.randrange(3)}}}'}
        call = {"id": f"call_{draw.getrandbits(32):08x}", "type": "function", "function": called}
        return Message(tool_calls=(call,))
    words = draw.choices(_WORDS, k=draw.randint(4, 119))
    return f"{' '.join(words)} \\boxed{{{draw.choice((42, 42, 42, 12, 12, 7))}}}"


def _raw(message: Message) -> str:
    calls = json.dumps(message.tool_calls) if message.tool_calls else ""
    return message.reasoning + message.content + calls


def _parsed(message: Message | None, raw: str) -> Message | None:
    """Parse the raw text so far; tool calls come with the whole reply only."""
    if message is None:
        return None
    thought = len(message.reasoning)
    return Message(raw[thought : thought + len(message.content)], raw[:thought])


def _stops(
    text: str, ids: Sequence[int], ends: Sequence[int], sampling: Sampling
) -> Iterator[tuple[int, int, str | int]]:
    """Give each way in which the sample may stop: tokens made, characters shown, the reason."""
    for stop in sampling.stop:
        if (at := text.find(stop)) >= 0:
            end = at + len(stop)
            yield bisect_left(ends, end), end if sampling.keep_stop else at, stop
    for place, token_id in enumerate(ids):
        if token_id in sampling.stop_token_ids:
            yield place + 1, ends[place + sampling.keep_stop], token_id


def _logprobs(piece: str, token_id: int, k: int | None) -> tuple[TokenLogprob, ...]:
    """Make up a probability between 0.5 and 0.98, and halve what is left among the others.

    Their ids belong to no reply: whoever goes on after one branches off there.
    """
    if k is None:
        return ()
    chance = 0.5 + token_id * 37 % 97 / 200
    rest = [(f"{piece}~{rank}", math.log((1 - chance) / 2**rank)) for rank in range(1, k)]
    top = ((piece, math.log(chance)), *rest)[:k]
    top_ids = tuple(rank << _KEY_BITS | token_id for rank in range(k))
    return (TokenLogprob(piece, math.log(chance), top, top_ids),)


def _reply_logprobs(reply: Reply | None) -> tuple[TokenLogprob, ...]:
    """Give a reply's tokens the probabilities that they have where they are drawn."""
    if reply is None:
        return ()
    pieces = split(reply.text)
    ids = reply.token_ids or range(len(pieces))
    told = zip(pieces, ids, strict=False)  # a text that a stop string cut has fewer
    return tuple(entry for piece, token_id in told for entry in _logprobs(piece, token_id, 0))


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Join all chunks of a sample into one."""
    return replace(
        chunks[-1],
        text="".join(chunk.text for chunk in chunks),
        token_ids=tuple(token_id for chunk in chunks for token_id in chunk.token_ids),
        logprobs=tuple(entry for chunk in chunks for entry in chunk.logprobs),
        usage=sum((chunk.usage for chunk in chunks), Usage()),
    )
