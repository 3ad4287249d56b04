"""From rows to token ids, by the same chat template that serves, and to padded batches.

A reply's ids are exactly what the engine generates: what follows the template's generation prompt,
with the token that ends a turn and nothing after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from training.rows import (
    Conversation,
    Groups,
    Labelled,
    Message,
    Pair,
    Prompted,
    Ranking,
    Row,
    Stepped,
)

_PLACE = "\x00"


class EncodingError(ValueError):
    """A chat template writes a conversation in a way that its replies cannot be found in."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a prompt and a reply, and which of them are trained on."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    """True for the tokens of the reply, its end included."""

    @property
    def start(self) -> int:
        """Where the first trained token stands."""
        return self.mask.index(True)


class Encoder:
    """A tokenizer with what is known of its chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.end = _end_of_turn(tokenizer)
        """The text that the template writes behind a reply: what the model generates at its end."""
        pad = tokenizer.pad_token_id
        self.pad_id: int = tokenizer.eos_token_id if pad is None else pad

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Write a conversation up to where the reply begins."""
        turns = [message.model_dump() for message in messages]
        return str(
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        )

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the ids of a conversation up to where the reply begins."""
        return self.text(self.prompt_text(messages))

    def text(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text, nothing added."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def reply(self, text: str, *, ended: bool = True) -> tuple[int, ...]:
        """Return the ids of a reply; with those that end a turn, unless it was cut."""
        return self.text(text + self.end * ended)

    def row(
        self, messages: Sequence[Message], reply: str, *, prefix: str = "", ended: bool = True
    ) -> Encoded:
        """Encode a prompt with a reply; what the reply begins with as `prefix` is not trained."""
        prompt = self.prompt(messages) + (self.text(prefix) if prefix else ())
        answer = self.reply(reply, ended=ended)
        return Encoded(prompt + answer, (False,) * len(prompt) + (True,) * len(answer))

    def drawn(self, messages: Sequence[Message], ids: Sequence[int]) -> Encoded:
        """Encode a prompt with a reply as an engine drew it, token by token."""
        prompt = self.prompt(messages)
        return Encoded((*prompt, *ids), (False,) * len(prompt) + (True,) * len(ids))

    def conversation(self, messages: Sequence[Message]) -> Encoded:
        """Encode a dialogue in which every turn of the assistant is trained on.

        Raises EncodingError where the template writes an earlier turn otherwise than it was said:
        stripped, say, or without its thinking.
        """
        ids: tuple[int, ...] = ()
        mask: tuple[bool, ...] = ()
        written = ""
        for place, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self.prompt_text(messages[:place])
            if not before.startswith(written):
                raise EncodingError(f"turn {place}: the chat template rewrites what is before it")
            # What the template wrote behind the last reply's end is this prompt's beginning.
            prompt = self.text(before[len(written) :])
            answer = self.reply(message.content)
            ids += prompt + answer
            mask += (False,) * len(prompt) + (True,) * len(answer)
            written = before + message.content + self.end
        return Encoded(ids, mask)

    def length(self, row: Row) -> int:
        """Count the tokens of a row's longest text: of a prompt without replies, its own."""
        match row:
            case Conversation(messages=messages, rationale=rationale):
                longest = len(self.conversation(messages).ids)
                if rationale is None:
                    return longest
                return max(longest, len(self.row(messages[:-1], rationale).ids))
            case Pair():
                replies = [row.prefix + row.chosen, row.prefix + row.rejected]
            case Groups():
                replies = [*row.chosen, *row.rejected]
            case Ranking():
                replies = [*row.replies]
            case Labelled():
                replies = [row.reply]
            case Stepped():
                replies = ["".join(row.steps)]
            case Prompted():
                return len(self.prompt(row.prompt))
            case _:
                raise TypeError(f"{type(row).__name__} has no text")
        return len(self.prompt(row.prompt)) + max(len(self.reply(reply)) for reply in replies)

    def batch(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Pad on the right: `input_ids`, `attention_mask`, `reply_mask`, each (rows, tokens)."""
        return {
            "input_ids": padded([row.ids for row in rows], self.pad_id),
            "attention_mask": padded([(1,) * len(row.ids) for row in rows], 0),
            "reply_mask": padded([row.mask for row in rows], 0).bool(),
        }


def padded(rows: Sequence[Sequence[float]], value: float) -> Tensor:
    """Put rows of different lengths into one tensor, filled on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *([value] * (width - len(row)))] for row in rows])


def token_logprobs(model: Any, batch: Mapping[str, Tensor], temperature: float = 1.0) -> Tensor:
    """Return each reply token's log-probability, (rows, tokens − 1): place t is of token t + 1.

    Zero where `reply_mask` is false. Computed in float32, whatever the model's own type.
    """
    ids = batch["input_ids"]
    # Counted from the end: adapters may put virtual tokens before the first.
    logits = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits
    logits = logits[:, -ids.shape[1] : -1]
    logits = logits.float() / temperature
    chosen = logits.gather(-1, ids[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)
    return chosen * batch["reply_mask"][:, 1:]


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PLACE}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    _, found, end = text.partition(_PLACE)
    eos = tokenizer.eos_token
    if not found or eos not in end:
        raise ValueError(f"the chat template does not end a reply with {eos!r}")
    return end[: end.index(eos) + len(eos)]
