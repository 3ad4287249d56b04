"""A transformers model as an engine: what samples where there is no vLLM, or from tiny models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase

from training.rollouts.drawing import Drawer
from verifiers.batching import Batcher
from verifiers.errors import BadRequest
from verifiers.types import (
    TOKEN_IDS,
    Capabilities,
    Chunk,
    Continuation,
    Prompt,
    Sampling,
    TokenLogprob,
    Usage,
    sample_seed,
)

ROWS = 64
"""Most replies of one call of `generate`."""
_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_UNDERSTOOD = frozenset(
    {*_DEFAULTS, "max_tokens", "min_tokens", "stop", "stop_token_ids", "keep_stop", "seed"}
    | {"first", "logprobs", "incremental"}
)


@dataclass(frozen=True, slots=True)
class _Order:
    """One reply that somebody waits for."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    """Without its seed: orders of equal sampling are drawn together."""
    seed: int | None
    room: int
    """Tokens that it may get."""


class ModelEngine:
    """Implements `verifiers.types.Engine` with `generate` of a model that somebody may be training.

    Replies asked for at the same time are one batch, padded on the left. A batch that runs is not
    stopped when nobody waits for it any more. The model is in evaluation mode while it draws.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, name: str = "policy"
    ) -> None:
        """Draw from `model`, a `PreTrainedModel` or a `PeftModel` with a causal language model."""
        self._model = model
        self._tokenizer = tokenizer
        self._name = name
        self._defaults = _defaults(model.generation_config)
        self._capabilities = Capabilities(
            context_length=model.config.max_position_embeddings,
            continuation=Continuation.TOKEN_IDS,
            seeds=True,
            logprobs=min(20, model.config.vocab_size),
            end_tokens=_end_tokens(model.generation_config, tokenizer),
            together=True,
            defaults=self._defaults,
        )
        self._batcher: Batcher[_Order, Chunk] = Batcher(self._work, size=ROWS, wait_s=0.0)

    @property
    def model(self) -> str:
        """The name under which it goes."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return self._capabilities

    @property
    def statistics(self) -> Mapping[str, float]:
        """None of its own."""
        return {}

    def follow(self, model: Any) -> None:
        """Draw from this model from now on, of the same architecture."""
        self._model = model

    async def count_tokens(self, prompt: Prompt) -> int:
        """Count the prompt's tokens after the chat template."""
        return len(self._rendered(prompt))

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text, without special tokens around it."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    async def aclose(self) -> None:
        """Stop taking orders; the model is not ours."""
        await self._batcher.aclose()

    async def generate(
        self, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Chunk, None]:
        """Draw n replies, a chunk each."""
        _check(prompt, sampling)
        ids = self._rendered(prompt)
        room = self._capabilities.context_length - len(ids)
        if room < 1:
            raise BadRequest(
                f"the prompt's {len(ids)} tokens leave no room for a reply in the model's context "
                f"of {self._capabilities.context_length} tokens",
                param="messages",
                code="context_length_exceeded",
            )
        seeds = [
            None if sampling.seed is None else sample_seed(sampling.seed, sampling.first + index)
            for index in range(n)
        ]
        plain = replace(sampling, seed=None, first=0, incremental=False)
        room = min(room, sampling.max_tokens)
        replies = await self._batcher.run([_Order(ids, plain, seed, room) for seed in seeds])
        for index, reply in enumerate(replies):
            yield replace(reply, index=index)

    def _rendered(self, prompt: Prompt) -> tuple[int, ...]:
        messages = [
            {key: value for key, value in each.items() if key != TOKEN_IDS}
            for each in prompt.messages
        ]
        ids = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False, **prompt.template_arguments
        )
        if prompt.reply is None:
            return tuple(ids)
        return (*ids, *(prompt.reply.token_ids or self._encoded(prompt.reply.text)))

    def _encoded(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    async def _work(self, orders: Sequence[_Order]) -> Sequence[Chunk]:
        """Draw those of equal sampling together, in a thread: the loop stays free."""
        drawn: dict[int, Chunk] = {}
        for sampling in dict.fromkeys(order.sampling for order in orders):
            places = [at for at, order in enumerate(orders) if order.sampling == sampling]
            chunks = await asyncio.to_thread(self._draw, [orders[at] for at in places])
            drawn.update(zip(places, chunks, strict=True))
        return [drawn[at] for at in range(len(orders))]

    def _draw(self, orders: Sequence[_Order]) -> list[Chunk]:
        """Draw a batch of equal sampling."""
        sampling, model = orders[0].sampling, self._model
        drawer = Drawer(sampling, [each.seed for each in orders], self._defaults, model.device)
        ids, mask = _padded([each.prompt_ids for each in orders])
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    generation_config=self._config(sampling, max(each.room for each in orders)),
                    logits_processor=LogitsProcessorList([drawer]),
                    **({"tokenizer": self._tokenizer} if sampling.stop else {}),
                )
        finally:
            model.train(training)
        return [self._chunk(order, drawer, row) for row, order in enumerate(orders)]

    def _config(self, sampling: Sampling, room: int) -> GenerationConfig:
        penalty = sampling.repetition_penalty or self._defaults.get("repetition_penalty", 1.0)
        return GenerationConfig(
            max_new_tokens=room,
            min_new_tokens=sampling.min_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=penalty,
            eos_token_id=[*self._capabilities.end_tokens, *sampling.stop_token_ids],
            pad_token_id=self._capabilities.end_tokens[0],
            stop_strings=list(sampling.stop) or None,
        )

    def _chunk(self, order: _Order, drawer: Drawer, row: int) -> Chunk:
        """Cut a row where its reply ends: at an end token, a stop string, or its length."""
        sampling = order.sampling
        ids = [int(place[row]) for place in drawer.tokens[: order.room]]
        length, ended = len(ids), False
        stopped: str | int | None = None
        ends = {*self._capabilities.end_tokens, *sampling.stop_token_ids}
        for place, token in enumerate(ids):
            if token in ends:
                own = token in self._capabilities.end_tokens
                length, ended, stopped = place + 1, True, None if own else token
                break
        text = self._text(ids[:length])
        found = [stop for stop in sampling.stop if stop in text]
        if found:
            first = min(found, key=text.index)
            length = next(end for end in range(length + 1) if first in self._text(ids[:end]))
            text = text[: text.index(first)] + (first if sampling.keep_stop else "")
            ended, stopped = True, first
        given = sampling.logprobs is not None
        return Chunk(
            0,
            text,
            tuple(ids[:length]),
            tuple(self._entry(drawer, row, at) for at in range(length)) if given else (),
            finish_reason="stop" if ended else "length",
            stop_reason=stopped,
            usage=Usage(prompt_tokens=len(order.prompt_ids), completion_tokens=length),
        )

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _entry(self, drawer: Drawer, row: int, place: int) -> TokenLogprob:
        token = self._tokenizer.decode([int(drawer.tokens[place][row])])
        logprob = float(drawer.logprobs[place][row])
        if not drawer.likeliest:
            return TokenLogprob(token, logprob)
        values, ids = (each[row].tolist() for each in drawer.likeliest[place])
        texts = [self._tokenizer.decode([each]) for each in ids]
        return TokenLogprob(token, logprob, tuple(zip(texts, values, strict=True)), tuple(ids))


def _defaults(config: GenerationConfig) -> dict[str, float]:
    given = {name: getattr(config, name) for name in _DEFAULTS}
    return {name: value for name, value in given.items() if value is not None}


def _end_tokens(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokenizer's own end of a text, then those of the model's generation_config."""
    listed: int | list[int] | None = config.eos_token_id
    own: int | None = tokenizer.eos_token_id
    others = [listed] if isinstance(listed, int) else listed or []
    return tuple(dict.fromkeys([own, *others] if own is not None else others))


def _padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask, (rows, longest) each, padded on the left."""
    longest = max(map(len, rows))
    ids = [[0] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def _check(prompt: Prompt, sampling: Sampling) -> None:
    """Refuse what this engine does not do. Raises BadRequest."""
    if prompt.constrained or prompt.tools or prompt.adapter is not None:
        raise BadRequest("the model itself is drawn from without grammars, tools and adapters")
    for field in fields(Sampling):
        given = getattr(sampling, field.name)
        if field.name not in _UNDERSTOOD and given != field.default:
            raise BadRequest(f"the model itself is drawn from without {field.name}")
