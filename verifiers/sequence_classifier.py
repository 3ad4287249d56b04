"""Sequence-classification heads: what every backend gives, and the one by transformers, on a CPU.

torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeAlias

from verifiers.errors import VerifierError
from verifiers.model_thread import ModelThread, Work, in_batches
from verifiers.types import JSONObject

Conversation: TypeAlias = tuple[JSONObject, ...]
"""Messages of role and text, the reply last."""
Logits: TypeAlias = tuple[float, ...]
"""One for each class of the head, before any activation."""
Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]


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
        return self._cut(self._written(conversation))

    def prompt_ids(self, messages: Conversation) -> list[int]:
        """Return the tokens up to where the reply begins. Raises VerifierError as `ids` does."""
        return self._cut(self._written(messages, add_generation_prompt=True))

    def reply_ids(self, text: str) -> tuple[list[int], list[int]]:
        """Return a reply's tokens, without an end, and the character that each begins at."""
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return found["input_ids"], [start for start, _ in found["offset_mapping"]]

    def _cut(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _written(self, conversation: Conversation, **options: Any) -> str:
        from jinja2 import TemplateError

        try:
            return str(
                self._tokenizer.apply_chat_template(list(conversation), tokenize=False, **options)
            )
        except TemplateError as error:
            raise VerifierError(f"the reward model's chat template refuses: {error}") from error


class SequenceClassifier:
    """A head in this process, by transformers."""

    def __init__(self, model: ModelThread[Conversation, Logits | None]) -> None:
        self._model = model

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
        """Load a model's directory. Raises VerifierError."""

        def load() -> Work[Conversation, Logits | None]:
            return _Model(directory, dtype, max_tokens, batch_size).logits

        return cls(await ModelThread.load(load, "reward-model", batch_size, wait_s))

    async def logits(self, conversations: Sequence[Conversation]) -> list[Logits | None]:
        """Score beside whatever other requests ask for."""
        return await self._model.run(conversations)

    async def aclose(self) -> None:
        """Stop after the forward pass that runs."""
        await self._model.aclose()


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
        found: list[Logits | None] = [None] * len(texts)
        lengths = list(map(len, texts))
        for places in in_batches(lengths, self._max_tokens, self._batch_size, unwanted):
            read = self._forward([texts[place] for place in places])
            for place, logits in zip(places, read, strict=True):
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
    from transformers import AutoModelForSequenceClassification

    return load_head(AutoModelForSequenceClassification, directory, dtype, "no sequence classifier")


def load_head(kind: Any, directory: Path, dtype: Dtype, otherwise: str) -> Any:
    """Load a model with a head, `kind` of transformers' Auto classes, to be read only.

    A head that is not in the file would be made up: that is refused, the directory is `otherwise`.
    Raises VerifierError.
    """
    import torch

    try:
        model, told = kind.from_pretrained(
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
        raise VerifierError(f"{directory} is {otherwise}: it lacks {missing}")
    model.config.use_cache = False
    return model.eval()
