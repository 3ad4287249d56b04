"""A real GGUF file of a tiny, random Qwen2 model with a byte tokenizer."""

from pathlib import Path

import numpy as np

VOCABULARY, HIDDEN, HEADS, INTERMEDIATE = 259, 32, 2, 64
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
)


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(byte if byte in plain else next(extra)) for byte in range(256)]


def write_tiny_gguf(path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "qwen2")
    writer.add_name("Tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*byte_letters(), "ab", "<|im_start|>", "<|im_end|>"])
    writer.add_token_types([1] * 257 + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(258)
    writer.add_bos_token_id(257)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, shape in tensors().items():
        values = np.random.default_rng(0).normal(size=shape) * 0.02
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors() -> dict[str, tuple[int, ...]]:
    square, vector = (HIDDEN, HIDDEN), (HIDDEN,)
    return {
        "token_embd.weight": (VOCABULARY, HIDDEN),
        "output_norm.weight": vector,
        "output.weight": (VOCABULARY, HIDDEN),
        "blk.0.attn_norm.weight": vector,
        "blk.0.ffn_norm.weight": vector,
        **{f"blk.0.attn_{name}.weight": square for name in ("q", "k", "v", "output")},
        **{f"blk.0.attn_{name}.bias": vector for name in ("q", "k", "v")},
        "blk.0.ffn_gate.weight": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_up.weight": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, INTERMEDIATE),
    }
