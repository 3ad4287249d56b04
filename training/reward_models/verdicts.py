"""What verifiers read in a language model: labels of the next token, and how likely a reply is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.encoding import Encoded, Encoder
from training.reward_models.reply_batches import model_inputs
from training.rows import Labelled, Message
from verifiers.generative import Generative
from verifiers.types import Candidate, Prompt, Task


class Labels:
    """The tokens of two labels.

    Trained on is the label itself; read, as verifiers read it, is every token that is the label but
    for case and white space.

    Raises:
        ValueError: a label is no single token.
    """

    def __init__(self, encoder: Encoder, good: str, bad: str) -> None:
        self.good, self.bad = _single(encoder, good), _single(encoder, bad)
        found: dict[str, list[int]] = {good.casefold(): [], bad.casefold(): []}
        tokenizer = encoder.tokenizer
        for place in range(len(tokenizer)):
            word = tokenizer.decode([place]).strip().casefold()
            if word in found:
                found[word].append(place)
        self._good, self._bad = found[good.casefold()], found[bad.casefold()]

    def log_odds(self, logprobs: Tensor) -> Tensor:
        """Return log p(good) − log p(bad) of next tokens' log-probabilities (…, vocabulary)."""
        good, bad = logprobs[..., self._good], logprobs[..., self._bad]
        return good.logsumexp(-1) - bad.logsumexp(-1)


def asked_after(verifier: Generative, row: Labelled, encoder: Encoder) -> Encoded:
    """Encode the question that the verifier asks after a row's reply."""
    turns = tuple(message.model_dump() for message in row.prompt)
    candidate = Candidate("", row.reply, finish_reason="stop")
    asked: Prompt = verifier.asked_after(Task(Prompt(turns)), candidate)
    messages = [Message.model_validate(each) for each in asked.messages]
    ids = encoder.prompt(messages)
    start = len(encoder.prompt(row.prompt))
    end = start + len(encoder.reply(row.reply))
    mask = (False,) * start + (True,) * (end - start) + (False,) * (len(ids) - end)
    return Encoded(ids, mask)


def next_logprobs(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probabilities of the token after each row's last, (rows, vocabulary)."""
    # Of each row all rows' last places: few, where the head over all tokens would cost much.
    places, where = batch["last"].unique(return_inverse=True)
    logits = model(**model_inputs(batch), logits_to_keep=places).logits
    rows = torch.arange(len(where), device=where.device)
    return logits[rows, where].float().log_softmax(-1)


def reply_logprob(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return log π(reply) of each row, (rows,): over all of its tokens."""
    logits = model(**model_inputs(batch)).logits[:, :-1].float()
    ids, mask = batch["input_ids"][:, 1:], batch["reply_mask"][:, 1:]
    chosen = logits.gather(-1, ids[..., None]).squeeze(-1) - logits.logsumexp(-1)
    return (chosen * mask).sum(-1)


def _single(encoder: Encoder, label: str) -> int:
    ids = encoder.text(label)
    if len(ids) != 1:
        raise ValueError(f"the label {label!r} is {len(ids)} tokens of this tokenizer, not one")
    return ids[0]
