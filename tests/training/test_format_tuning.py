"""Format tuning: marks become tokens, begin as a mean, and are learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from strategies.chain_of_action_thought import Action
from tests.training.tiny import begin, logged, recipe, write_rows
from training import models
from training.methods.format_tuning import FormatTuning, _make_room
from training.run import RunError

MARKS = ("<|continue|>", "<|reflect|>", "<|explore|>")


def _rows(path: Path) -> Path:
    messages = [
        {"role": "user", "content": "3+4?"},
        {"role": "assistant", "content": "8\n\n<|reflect|>No.\n\n<|continue|>7"},
    ]
    return write_rows(path, [{"messages": messages}] * 8)


def test_the_marks_are_the_strategy_s() -> None:
    assert FormatTuning().marks == MARKS == tuple(f"<|{action}|>" for action in Action)


def test_marks_become_tokens_that_are_learnt(tiny: Path, tmp_path: Path) -> None:
    run = begin(recipe(tiny, "format_tuning", _rows(tmp_path / "rows.jsonl")), tmp_path)
    before = len(run.tokenizer)
    run.recipe.method.train(run)
    assert logged(run, "loss")[-1] < 0.7 * logged(run, "loss")[0]
    assert run.result is not None
    base = models.find_base(f"checkpoint:{run.result.spec}", run.store, run._progress)
    tokenizer = models.load_tokenizer(base.path)
    ids = tokenizer("x<|reflect|>y", add_special_tokens=False)["input_ids"]
    assert len(ids) == 3
    assert ids[1] >= before
    assert tokenizer.decode(ids, skip_special_tokens=True) == "x<|reflect|>y"
    model = models.load_model(base, dtype="float32", adapted=False)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == before + 3
    # Trained further, they are there already.
    second = recipe(base.path, "format_tuning", tmp_path / "rows.jsonl")
    again = begin(second, tmp_path / "again")
    second.method.train(again)
    assert len(again.tokenizer) == before + 3


def test_new_tokens_begin_as_the_mean(tiny: Path) -> None:
    base = models.Base("tiny", tiny)
    model = models.load_model(base, dtype="float32", adapted=False)
    embedding = model.get_input_embeddings()
    rows = embedding.num_embeddings
    mean = embedding.weight.mean(0)
    _make_room(model, range(rows, rows + 2))
    new = model.get_input_embeddings().weight[rows:]
    torch.testing.assert_close(new, mean.expand(2, -1))
    assert model.config.vocab_size == rows + 2


def test_adapters_are_refused(tiny: Path, tmp_path: Path) -> None:
    rows = _rows(tmp_path / "rows.jsonl")
    run = begin(recipe(tiny, "format_tuning", rows, adapter={"type": "lora"}), tmp_path)
    with pytest.raises(RunError, match=r"leave `.adapter.` out"):
        run.recipe.method.train(run)
