"""A reward model of two layers with random weights, and its byte-level tokenizer, on disk."""

from __future__ import annotations

from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'nobody' %}"
    "{{ raise_exception('nobody speaks') }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
)
LENGTH = 512
"""Of the context, in tokens: bytes."""


def save_tiny(directory: Path, *, labels: int = 1, head: bool = True) -> Path:
    """Write a model that any of the backends loads; without `head` it is a language model."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

    torch.manual_seed(labels)
    config = Qwen2Config(
        vocab_size=_save_tokenizer(directory),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        num_labels=labels,
        pad_token_id=0,
        initializer_range=0.3,
    )
    model = Qwen2ForSequenceClassification(config) if head else Qwen2ForCausalLM(config)
    model.save_pretrained(directory)
    return directory


def _save_tokenizer(directory: Path) -> int:
    """Write a tokenizer of single bytes; return the number of its tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
    whole.chat_template = TEMPLATE
    whole.save_pretrained(directory)
    return len(vocabulary)
