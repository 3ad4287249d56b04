"""A value head on each token, by transformers in this process: what a reply's beginnings are worth.

torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

from verifiers.errors import VerifierError
from verifiers.model_thread import ModelThread, Work, in_batches
from verifiers.sequence_classifier import ConversationTokenizer, Dtype, load_head
from verifiers.types import JSONObject

Values: TypeAlias = tuple[float, ...]
"""One for each place that was asked for."""


class Beginnings(NamedTuple):
    """A prompt, a reply to it, and how many characters of the reply each beginning has."""

    messages: tuple[JSONObject, ...]
    reply: str
    ends: tuple[int, ...]


class _Tokens(NamedTuple):
    ids: list[int]
    places: list[int]
    """The last token of each beginning."""


class TokenValues:
    """A head in this process."""

    def __init__(self, model: ModelThread[Beginnings, Values | None]) -> None:
        self._model = model

    @classmethod
    async def load(
        cls, directory: Path, *, dtype: Dtype, batch_size: int = 16, wait_s: float = 0.005
    ) -> Self:
        """Load a model's directory. Raises VerifierError."""

        def load() -> Work[Beginnings, Values | None]:
            return _Model(directory, dtype, batch_size).values

        return cls(await ModelThread.load(load, "value-head", batch_size, wait_s))

    async def values(self, asked: Sequence[Beginnings]) -> list[Values | None]:
        """Return what the head says at each beginning's end; None for what is too long for it.

        Raises VerifierError.
        """
        return await self._model.run(asked)

    async def aclose(self) -> None:
        """Stop after the forward pass that runs."""
        await self._model.aclose()


class _Model:
    """The model itself; used by one thread only."""

    def __init__(self, directory: Path, dtype: Dtype, batch_size: int) -> None:
        self._tokenizer = ConversationTokenizer(directory)
        self._model = _load(directory, dtype)
        self._batch_size = batch_size
        self._max_tokens: int = self._model.config.get_text_config().max_position_embeddings
        pad = self._tokenizer.pad
        if pad is None:
            raise VerifierError(f"{directory}: the tokenizer names no padding token")
        self._pad = pad

    def values(self, asked: Sequence[Beginnings], unwanted: threading.Event) -> list[Values | None]:
        """Read texts of about one length together, until nobody wants it any more."""
        texts = [self._tokens(each) for each in asked]
        found: list[Values | None] = [None] * len(texts)
        lengths = [len(text.ids) for text in texts]
        for places in in_batches(lengths, self._max_tokens, self._batch_size, unwanted):
            read = self._forward([texts[place] for place in places])
            for place, values in zip(places, read, strict=True):
                found[place] = values
        return found

    def _tokens(self, asked: Beginnings) -> _Tokens:
        """Cut prompt and reply apart from each other, as the reply was generated."""
        prompt = self._tokenizer.prompt_ids(asked.messages)
        reply, starts = self._tokenizer.reply_ids(asked.reply)
        places = [len(prompt) + bisect_left(starts, end) - 1 for end in asked.ends]
        return _Tokens(prompt + reply, places)

    def _forward(self, texts: Sequence[_Tokens]) -> list[Values]:
        import torch

        shape = len(texts), max(len(text.ids) for text in texts)
        ids = torch.full(shape, self._pad, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = torch.tensor(text.ids, dtype=torch.long)
            mask[row, : len(text.ids)] = 1
        try:
            with torch.inference_mode():
                values = self._model(input_ids=ids, attention_mask=mask).logits[..., 0].float()
        except RuntimeError as error:  # torch's own, out of memory among them
            raise VerifierError(f"the value head failed: {error}") from error
        return [tuple(values[row, text.places].tolist()) for row, text in enumerate(texts)]


def _load(directory: Path, dtype: Dtype) -> Any:
    """Load a head of one number on every token. Raises VerifierError."""
    from transformers import AutoModelForTokenClassification

    model = load_head(AutoModelForTokenClassification, directory, dtype, "no head on tokens")
    if model.config.num_labels != 1:
        raise VerifierError(f"{directory}: a value is one number, not {model.config.num_labels}")
    return model
