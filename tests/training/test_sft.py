"""Supervised fine-tuning: what it is trained on, that it learns, and what it publishes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.training.tiny import begin, logged, recipe, write_rows
from training.data import DataError
from training.encoding import token_logprobs
from training.methods.sft import step_by_step_loss
from verifiers.manifest import read_manifest


def _rows(path: Path) -> Path:
    dialogue = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And 3+3?"},
        {"role": "assistant", "content": "6"},
    ]
    return write_rows(path, [{"messages": dialogue}, {"messages": dialogue[:3]}] * 4)


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}])
def test_it_learns_the_replies(
    tiny: Path, tmp_path: Path, adapter: dict[str, object] | None
) -> None:
    said = recipe(tiny, "sft", _rows(tmp_path / "rows.jsonl"), adapter=adapter)
    run = begin(said, tmp_path)
    said.method.train(run)
    losses = logged(run, "loss")
    assert losses[-1] < 0.7 * losses[0]
    checkpoint = run.store.find(run.result.spec)
    manifest = read_manifest(checkpoint.path)
    assert manifest.kind == ("policy" if adapter is None else "lora")


def test_the_loss_is_the_mean_over_the_tokens_of_replies(tiny: Path, tmp_path: Path) -> None:
    said = recipe(
        tiny, "sft", _rows(tmp_path / "rows.jsonl"), training={"max_steps": 1, "batch_size": 8}
    )
    run = begin(said, tmp_path)
    encoded = [run.encoder.conversation(row.messages) for row in run.rows]
    batch = run.encoder.batch(encoded)
    with torch.no_grad():
        expected = -token_logprobs(run.policy(), batch).sum() / batch["reply_mask"].sum()
    said.method.train(run)
    assert logged(run, "loss")[0] == pytest.approx(float(expected), rel=1e-4)
    trained = [[i for i, mask in zip(row.ids, row.mask, strict=True) if mask] for row in encoded]
    texts = [run.tokenizer.decode(ids) for ids in trained]
    assert texts[:2] == ["4<|im_end|>6<|im_end|>", "4<|im_end|>"]


def test_a_rationale_is_a_second_task_of_its_own_weight(tiny: Path, tmp_path: Path) -> None:
    question, label = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
    rows = write_rows(
        tmp_path / "rows.jsonl",
        [
            {"messages": [question, label], "rationale": "Two and two."},
            {"messages": [question, {"role": "assistant", "content": "four, I say"}]},
        ],
    )
    training = {"max_steps": 1, "batch_size": 2}
    method = {"type": "sft", "rationale_weight": 0.25, "rationale_prefix": "why? "}
    run = begin(recipe(tiny, method, rows, training=training), tmp_path)
    batch = run.recipe.method.collate(run.encoder, run.rows)
    assert batch["rationales"].tolist() == [False, False, True]
    texts = [run.tokenizer.decode(ids[ids != 0]) for ids in batch["input_ids"]]
    assert texts[2].endswith(
        "<|im_start|>user\nwhy? 2+2?<|im_end|>\n<|im_start|>assistant\nTwo and two.<|im_end|>"
    )
    assert "why?" not in texts[0] + texts[1]
    with torch.no_grad():
        logprobs = token_logprobs(run.policy(), batch)
    means = -logprobs.sum(1) / torch.tensor([2, 12, 13])
    expected = (means[0] + means[1]) / 2 + 0.25 * means[2] / 2
    run.recipe.method.train(run)
    assert logged(run, "loss")[0] == pytest.approx(float(expected), rel=1e-4)
    assert logged(run, "rationale_loss")[0] == pytest.approx(float(means[2]) / 2, rel=1e-4)


def test_the_two_tasks_by_hand() -> None:
    logprobs = torch.tensor(
        [[-1.0, -3.0], [-2.0, 0.0], [-4.0, -8.0]], dtype=torch.float64, requires_grad=True
    )
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    which = torch.tensor([False, False, True])
    whole, label, rationale = step_by_step_loss(logprobs, mask, which, 0.5)
    assert (label.item(), rationale.item()) == (2.0, 3.0)
    assert whole.item() == 2.0 + 0.5 * 3.0
    assert torch.autograd.gradcheck(
        lambda x: step_by_step_loss(x * mask, mask, which, 0.5)[0], logprobs
    )


def test_rows_over_the_context_are_left_out_and_told(tiny: Path, tmp_path: Path) -> None:
    path = _rows(tmp_path / "rows.jsonl")
    said = recipe(tiny, "sft", path, training={"max_length": 64})
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .* tokens, training\.max_length is 64"):
        _ = begin(said, tmp_path).rows
    lax = said.model_copy(update={"data": said.data.model_copy(update={"strict": False})})
    run = begin(lax, tmp_path / "lax")
    assert [len(row.messages) for row in run.rows] == [3] * 4
    told = json.loads((run.directory / "data.json").read_text())
    assert told["left_out"] == {"over the context": 4}


def test_held_out_rows_are_measured(tiny: Path, tmp_path: Path) -> None:
    path = _rows(tmp_path / "rows.jsonl")
    said = recipe(tiny, "sft", path, data={"train": [str(path)], "test": [str(path)]})
    run = begin(said, tmp_path)
    said.method.train(run)
    assert run.result is not None
    metrics = read_manifest(run.result.path).metrics
    assert 0 < metrics["test_loss"] < logged(run, "loss")[0]
