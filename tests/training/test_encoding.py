"""From rows to ids: what is trained on is what the engine would see and write."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.models.store import cache_directory
from training.encoding import Encoder, EncodingError, padded, token_logprobs
from training.models import load_tokenizer
from training.rows import Message

MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            ["2 + 2 = 4", "\\boxed{4}", "\n\n", "  ", "<|im_end", "ß 数 🙂", "a\tb", "."]
        ),
        st.text(max_size=8),
    ),
    min_size=1,
    max_size=5,
).map("".join)
TEXTS = WORDS.filter(lambda text: bool(text.strip()) and not text[0].isspace())
"""Replies do not begin with white space: see the last test."""


@pytest.fixture(scope="module", params=MODELS)
def real(request: pytest.FixtureRequest) -> Encoder:
    path = cache_directory() / "models" / request.param
    if not (path / "tokenizer.json").exists():
        pytest.skip(f"{request.param} is not on this disk")
    return Encoder(load_tokenizer(path))


def dialogue(texts: list[str], *, system: bool) -> list[Message]:
    roles = ["user", "assistant"] * len(texts)
    turns = [Message(role=role, content=text) for role, text in zip(roles, texts, strict=False)]
    return [Message(role="system", content="Be brief."), *turns] if system else turns


def as_dicts(messages: list[Message]) -> list[dict[str, str]]:
    return [message.model_dump() for message in messages]


@settings(deadline=None, max_examples=60)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), system=st.booleans())
def test_a_dialogue_is_what_the_template_writes_token_by_token(
    real: Encoder, pairs: list[tuple[str, str]], system: bool
) -> None:
    messages = dialogue([text for pair in pairs for text in pair], system=system)
    encoded = real.conversation(messages)
    whole = real.tokenizer.apply_chat_template(as_dicts(messages), tokenize=False)
    # The engine stops at the end of the turn; the template writes a line break behind it.
    assert encoded.ids == real.text(whole.removesuffix("\n"))
    trained = [i for i, mask in zip(encoded.ids, encoded.mask, strict=True) if mask]
    said = "".join(reply + "<|im_end|>" for _, reply in pairs)
    assert real.tokenizer.decode(trained) == real.tokenizer.decode(real.text(said))
    assert trained.count(real.tokenizer.eos_token_id) == len(pairs)


@settings(deadline=None, max_examples=30)
@given(question=WORDS.filter(str.strip), reply=WORDS.filter(str.strip))
def test_a_prompt_is_what_the_engine_is_sent(real: Encoder, question: str, reply: str) -> None:
    messages = dialogue([question], system=False)
    sent = real.tokenizer.apply_chat_template(
        as_dicts(messages), add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert list(real.prompt(messages)) == sent
    row = real.row(messages, reply)
    assert list(row.ids[: row.start]) == sent
    assert row == real.drawn(messages, real.reply(reply))
    assert row == real.conversation([*messages, Message(role="assistant", content=reply)])


def test_a_system_prompt_of_the_template_is_there(real: Encoder) -> None:
    text = real.prompt_text(dialogue(["2+2?"], system=False))
    assert text.startswith("<|im_start|>system\nYou are ")
    assert text.endswith("<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n")
    assert "You are" not in real.prompt_text(dialogue(["2+2?"], system=True))


def test_a_reply_is_cut_from_its_prompt_where_the_engine_begins(real: Encoder) -> None:
    """Written as one text, the prompt's line break and the reply's would be one token."""
    messages = dialogue(["2+2?", "\n4"], system=False)
    encoded = real.conversation(messages)
    assert encoded.ids[: encoded.start] == real.prompt(messages[:1])
    assert encoded.ids[encoded.start :] == real.reply("\n4")


def test_a_template_that_rewrites_earlier_turns_is_found_out(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message.content }}", "message.content.strip() }}"
    )
    encoder = Encoder(tokenizer)
    good = dialogue(["a", "b", "c", "d"], system=False)
    assert sum(encoder.conversation(good).mask) == 4
    with pytest.raises(EncodingError, match="turn 3: the chat template rewrites"):
        encoder.conversation(dialogue(["a", "b ", "c", "d"], system=False))


def test_a_template_without_an_end_is_refused(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "")
    with pytest.raises(ValueError, match="does not end a reply"):
        Encoder(tokenizer)


def test_logprobs_are_those_of_the_reply_alone(tiny: Path) -> None:
    from transformers import AutoModelForCausalLM

    encoder = Encoder(load_tokenizer(tiny))
    model = AutoModelForCausalLM.from_pretrained(tiny)
    rows = [encoder.row(dialogue([text], system=False), text * 2) for text in ("a", "bcd")]
    batch = encoder.batch(rows)
    with torch.no_grad():
        found = token_logprobs(model, batch)
        alone = [token_logprobs(model, encoder.batch([row]))[0] for row in rows]
        hot = token_logprobs(model, batch, temperature=2.0)
        logits = model(torch.tensor([rows[0].ids])).logits[0]
    for place, row in enumerate(rows):
        assert found[place, : row.start - 1].abs().sum() == 0
        assert torch.allclose(found[place, : len(row.ids) - 1], alone[place], atol=1e-5)
        assert found[place, len(row.ids) - 1 :].abs().sum() == 0
    last = logits[-2].div(2).log_softmax(-1)[rows[0].ids[-1]]
    assert float(hot[0, len(rows[0].ids) - 2]) == pytest.approx(float(last), abs=1e-5)


def test_padding_is_on_the_right() -> None:
    assert padded([[1, 2, 3], [4]], 0).tolist() == [[1, 2, 3], [4, 0, 0]]
