"""Sequence-classification heads: what every backend gives, and the one by transformers, on a CPU.

torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeAlias

from verifiers.batching import Batcher
from verifiers.errors import VerifierError
from verifiers.types import JSONObject

Conversation: TypeAlias = tuple[JSONObject, ...]
"""Messages of role and text, the reply last."""
Logits: TypeAlias = tuple[float, ...]
"""One for each class of the head, before any activation."""
Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]

_BATCHES = 4
"""Batches' worth of texts that are sorted by length at a time, so that padding is little."""


class Classifier(Protocol):
    """A sequence-classification head somewhere."""

    async def logits(self, conversations: Sequence[Conversation]) -> list[Logits | None]:
        """Return each conversation's logits in order; None where it is too long for the model.

        Raises VerifierError and its kinds.
        """

    async def aclose(self) -> None:
        """Release everything."""


class ConversationTokenizer:
    """The tokenizer of a model's directory, which knows how the model wants conversations."""

    def __init__(self, directory: Path) -> None:
        """Read it: a second. Raises VerifierError where it has no chat template."""
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        if self._tokenizer.chat_template is None:
            raise VerifierError(f"{directory}: the tokenizer has no chat template")

    @property
    def pad(self) -> int | None:
        """The id that fills rows up."""
        own: int | None = self._tokenizer.pad_token_id
        end: int | None = self._tokenizer.eos_token_id
        return end if own is None else own

    def ids(self, conversation: Conversation) -> list[int]:
        """Return the conversation's tokens. Raises VerifierError where the template refuses it."""
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(list(conversation), tokenize=False)
        except TemplateError as error:
            raise VerifierError(f"the reward model's chat template refuses: {error}") from error
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


class SequenceClassifier:
    """A head in this process: one worker thread, fed with batches across requests."""

    def __init__(
        self, executor: ThreadPoolExecutor, model: _Model, batch_size: int, wait_s: float
    ) -> None:
        self._executor = executor
        self._model = model
        self._batcher: Batcher[Conversation, Logits | None] = Batcher(
            self._work, size=_BATCHES * batch_size, wait_s=wait_s
        )

    @classmethod
    async def load(
        cls,
        directory: Path,
        *,
        dtype: Dtype = "float32",
        max_tokens: int | None = None,
        batch_size: int = 16,
        wait_s: float = 0.005,
    ) -> Self:
        """Load a model's directory in the worker thread. Raises VerifierError."""
        executor = ThreadPoolExecutor(1, thread_name_prefix="reward-model")
        loading = asyncio.get_running_loop().run_in_executor(
            executor, _Model, directory, dtype, max_tokens, batch_size
        )
        try:
            model = await loading
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(executor, model, batch_size, wait_s)

    async def logits(self, conversations: Sequence[Conversation]) -> list[Logits | None]:
        """Score beside whatever other requests ask for."""
        return await self._batcher.run(conversations)

    async def aclose(self) -> None:
        """Stop after the forward pass that runs."""
        await self._batcher.aclose()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _work(self, conversations: Sequence[Conversation]) -> list[Logits | None]:
        unwanted = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._executor, self._model.logits, conversations, unwanted
            )
        finally:
            unwanted.set()


class _Model:
    """The model itself; used by one thread only."""

    def __init__(
        self, directory: Path, dtype: Dtype, max_tokens: int | None, batch_size: int
    ) -> None:
        self._tokenizer = ConversationTokenizer(directory)
        self._model = _load(directory, dtype)
        self._batch_size = batch_size
        config = self._model.config.get_text_config()
        self._max_tokens: int = max_tokens or config.max_position_embeddings
        if config.pad_token_id is None:
            config.pad_token_id = self._tokenizer.pad
        if config.pad_token_id is None:
            raise VerifierError(f"{directory}: neither model nor tokenizer names a padding token")
        self._pad: int = config.pad_token_id

    def logits(
        self, conversations: Sequence[Conversation], unwanted: threading.Event
    ) -> list[Logits | None]:
        """Score texts of about one length together, until nobody wants it any more."""
        texts = [self._tokenizer.ids(each) for each in conversations]
        fitting = [place for place, ids in enumerate(texts) if len(ids) <= self._max_tokens]
        fitting.sort(key=lambda place: len(texts[place]))
        found: list[Logits | None] = [None] * len(texts)
        for start in range(0, len(fitting), self._batch_size):
            if unwanted.is_set():
                break
            places = fitting[start : start + self._batch_size]
            for place, logits in zip(
                places, self._forward([texts[p] for p in places]), strict=True
            ):
                found[place] = logits
        return found

    def _forward(self, texts: Sequence[Sequence[int]]) -> list[Logits]:
        import torch

        shape = len(texts), max(map(len, texts))
        ids = torch.full(shape, self._pad, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text, dtype=torch.long)
            mask[row, : len(text)] = 1
        try:
            with torch.inference_mode():
                logits = self._model(input_ids=ids, attention_mask=mask).logits
        except RuntimeError as error:  # torch's own, out of memory among them
            raise VerifierError(f"the reward model failed: {error}") from error
        return [tuple(row) for row in logits.float().tolist()]


def _load(directory: Path, dtype: Dtype) -> Any:
    """Load the weights. A head that is not in the file would be made up: that is refused."""
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        model, told = AutoModelForSequenceClassification.from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise VerifierError(f"{directory} cannot be loaded: {error}") from error
    if told["missing_keys"]:
        missing = ", ".join(sorted(told["missing_keys"]))
        raise VerifierError(f"{directory} is no sequence classifier: it lacks {missing}")
    model.config.use_cache = False
    return model.eval()
