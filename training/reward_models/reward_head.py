"""A reward model's head: one logit over the last token of a conversation, as it is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import Tensor

from training.encoding import Encoded, Encoder
from training.reward_models.reply_batches import model_inputs
from training.rows import Message
from verifiers.sequence_classifier import ConversationTokenizer

if TYPE_CHECKING:
    from server.checkpoints.store import Checkpoint
    from training.run import Run


def load_reward_model(run: Run) -> Any:
    """Load the run's model with a head of one logit: its own, or a new one that says 0."""
    model = run.policy("SEQ_CLS", num_labels=1)
    config = model.config
    config.pad_token_id, config.use_cache = run.encoder.pad_id, False
    new = not any("SequenceClassification" in each for each in config.architectures or ())
    chosen = run.recipe.training.dtype
    for parameter in _head(model).parameters():
        if new:
            torch.nn.init.zeros_(parameter)
        # Few weights, and the largest steps: bfloat16 would round them away.
        if chosen == "auto":
            parameter.data = parameter.data.float()
    return model


def read_conversation(
    directory: Path, encoder: Encoder
) -> Callable[[Sequence[Message], str], Encoded]:
    """Return how the head is given a conversation: by the very code that serves it."""
    tokenizer = ConversationTokenizer(directory)

    def encode(messages: Sequence[Message], reply: str) -> Encoded:
        turns = tuple(message.model_dump() for message in messages)
        ids = tokenizer.ids((*turns, {"role": "assistant", "content": reply}))
        start = len(encoder.prompt(messages))
        return Encoded(tuple(ids), (False,) * start + (True,) * (len(ids) - start))

    return encode


class TokenRewards:
    """What the head says of every token of a batch, (rows, tokens): the model returns one only."""

    def __init__(self, model: Any) -> None:
        self._kept: Tensor | None = None
        _head(model).register_forward_hook(self._keep)

    def __call__(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Run the model; in float32."""
        model(**model_inputs(batch))
        kept, self._kept = self._kept, None
        assert kept is not None, "the head runs with its model"
        return kept.float().squeeze(-1)

    def _keep(self, module: Any, given: Any, logits: Tensor) -> None:  # noqa: ARG002
        self._kept = logits


def at_last(rewards: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return what the head says of each conversation, (rows,)."""
    return rewards.gather(-1, batch["last"][:, None]).squeeze(-1)


def publish_reward_model(run: Run, model: Any, **told: Any) -> Checkpoint | None:
    """Write the head and the body as one, any adapter merged in float32."""
    adapter = run.recipe.adapter
    whole = model if adapter is None else adapter.merged(model.float())
    return run.publish(whole, save=whole.save_pretrained, **told)


def _head(model: Any) -> Any:
    return (model.get_base_model() if isinstance(model, PeftModel) else model).score
