"""Layers that are not trained: what they make of a row is computed once, for all epochs.

The body of a decoder is cut below the first layer that is trained. Its lower part runs once over
each row; training then begins with what came out, given as `inputs_embeds` to the upper part: a
model whose lower layers pass on what they get.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.encoding import padded

_TOLERANCE = 0.05
"""Relative; bfloat16 alone makes a hundredth."""


class _Passing(nn.Module):
    """A layer that is left out."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


def body_of(model: Any) -> Any:
    """Return the decoder below a model's head, adapters inside it or not."""
    from peft import PeftModel

    return (model.get_base_model() if isinstance(model, PeftModel) else model).base_model


def train_only_top(model: Any, layers: int) -> None:
    """Freeze everything of the body but its last layers and what follows them; heads stay free.

    Raises:
        ValueError: there are not so many.
    """
    body = body_of(model)
    frozen = len(body.layers) - layers
    if frozen < 0:
        raise ValueError(f"`trained_layers` is {layers}: the model has {len(body.layers)}")
    if frozen == 0:
        return
    for part in (body.get_input_embeddings(), *body.layers[:frozen]):
        part.requires_grad_(False)
    if layers == 0:
        body.requires_grad_(False)


def frozen_below(model: Any) -> int:
    """Count the layers below the first that is trained; 0 where the embeddings are."""
    body = body_of(model)
    if _trained(body.get_input_embeddings()):
        return 0
    trained = [place for place, layer in enumerate(body.layers) if _trained(layer)]
    return trained[0] if trained else len(body.layers)


@contextmanager
def upper_part(model: Any, frozen: int) -> Iterator[None]:
    """Leave out the lowest layers while the block runs: it is given what they make."""
    with _without(body_of(model), range(frozen)):
        yield


@torch.no_grad()
def lower_part(
    model: Any, rows: Sequence[Sequence[int]], frozen: int, *, pad_id: int, batch_size: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield each row's place and what the lowest layers make of it, (tokens, hidden), on the CPU.

    In order of length, so that little is computed for padding.
    """
    body = body_of(model)
    device = body.get_input_embeddings().weight.device
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    norm, training, body.norm = body.norm, body.training, nn.Identity()
    body.eval()
    try:
        with _without(body, range(frozen, len(body.layers))):
            for start in range(0, len(order), batch_size):
                places = order[start : start + batch_size]
                ids = padded([rows[place] for place in places], pad_id).to(device)
                mask = padded([(1,) * len(rows[place]) for place in places], 0).to(device)
                hidden = body(input_ids=ids, attention_mask=mask, use_cache=False)[0].cpu()
                for place, states in zip(places, hidden, strict=True):
                    yield place, states[: len(rows[place])].clone()
    finally:
        body.norm = norm
        body.train(training)


@torch.no_grad()
def check_cut(model: Any, ids: Sequence[int], states: Tensor, frozen: int) -> None:
    """Hold the two parts, one after the other, against the whole body on one row.

    Raises:
        ValueError: they differ; the body changes what it is given as `inputs_embeds`.
    """
    body = body_of(model)
    training = body.training
    body.eval()
    device = body.get_input_embeddings().weight.device
    whole = body(input_ids=torch.tensor([ids], device=device), use_cache=False)[0].float()
    with upper_part(model, frozen):
        given = states[None].to(device)
        cut = body(inputs_embeds=given, use_cache=False)[0].float()
    body.train(training)
    if float((whole - cut).norm() / whole.norm()) > _TOLERANCE:
        raise ValueError(
            f"{type(body).__name__} cannot be cut between its layers: say `reuse_frozen = false`"
        )


@contextmanager
def _without(body: Any, places: range) -> Iterator[None]:
    layers = list(body.layers)
    for place in places:
        body.layers[place] = _Passing()
    try:
        yield
    finally:
        for place in places:
            body.layers[place] = layers[place]


def _trained(part: Any) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())
