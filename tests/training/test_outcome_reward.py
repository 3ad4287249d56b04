"""Outcome reward models: their loss, what they learn, and that they are served as they were."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import begin, logged, recipe, write_rows
from training.losses.reward import outcome
from training.methods.outcome_reward import OutcomeReward
from training.models import load_model
from training.reward_models.discrimination import Graded, calibrated, discrimination
from training.rows import Labelled
from training.run import Run
from verifiers.manifest import read_manifest
from verifiers.outcome_reward import OutcomeReward as Verifier
from verifiers.types import Candidate, Prompt, Task

LORA = {"type": "lora", "r": 8}


def labelled_rows(path: Path, *, problems: range) -> Path:
    """Write eight replies to each problem: right ones say x."""
    return write_rows(
        path,
        (
            {
                "prompt": f"Problem {problem}?",
                "reply": f"{problem}{sample} {'x' if sample % 4 == 0 else 'y'}",
                "label": float(sample % 4 == 0),
            }
            for problem in problems
            for sample in range(8)
        ),
    )


def trained(tiny: Path, directory: Path, method: dict[str, Any], **tables: Any) -> Run:
    """Train a verifier of whole replies for some steps."""
    train = labelled_rows(directory / "train.jsonl", problems=range(12))
    test = labelled_rows(directory / "test.jsonl", problems=range(50, 58))
    said = recipe(
        tiny,
        method,
        train,
        data={"train": [str(train)], "test": [str(test)], "strict": True},
        training={"max_steps": 24, "batch_size": 8, **tables.pop("training", {})},
        **tables,
    )
    run = begin(said, directory)
    said.method.train(run)
    return run


def served(model: Path, rows: list[Labelled], **settings: Any) -> list[float]:
    """Score rows by the verifier that loads the checkpoint."""

    async def score() -> list[float]:
        verifier = Verifier(backend="transformers", model=str(model), **settings)
        await verifier.start()
        try:
            return [await _one(verifier, row) for row in rows]
        finally:
            await verifier.aclose()

    return asyncio.run(score())


async def _one(verifier: Verifier, row: Labelled) -> float:
    task = Task(Prompt(tuple(message.model_dump() for message in row.prompt)))
    candidate = Candidate("c", row.reply, finish_reason="stop")
    (score,) = await verifier.score(task, [candidate], None)  # type: ignore[arg-type]
    return score.value


def test_the_loss_is_the_cross_entropy_of_the_verdict() -> None:
    log_odds = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1.0, 0.0, 0.25], dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    p = [1 / (1 + math.exp(-z)) for z in (2.0, -1.0, 0.5)]
    terms = [
        -math.log(p[0]),
        -2 * math.log(1 - p[1]),
        -0.5 * (0.25 * math.log(p[2]) + 0.75 * math.log(1 - p[2])),
    ]
    loss = outcome(log_odds, labels, weights)
    assert loss.item() == pytest.approx(sum(terms) / 3)
    loss.backward()
    # The gradient of a cross-entropy is p − y.
    assert log_odds.grad is not None
    expected = [(p[0] - 1) / 3, 2 * p[1] / 3, 0.5 * (p[2] - 0.25) / 3]
    assert log_odds.grad.tolist() == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda z: outcome(z, labels, weights), (log_odds,))


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "whole": ({}, {}),
    "every token": ({"token_weight": 1.0, "balanced": True}, {}),
    "adapter": ({"learning_rate": 1e-2}, {"adapter": LORA}),
    "last layer": ({"trained_layers": 1, "reuse_frozen": True}, {}),
    "head": ({"trained_layers": 0, "reuse_frozen": True, "learning_rate": 3e-2}, {}),
    "adapter above": (
        {"reuse_frozen": True, "learning_rate": 1e-2},
        {"adapter": {**LORA, "layers": [1]}},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_learns_and_is_served_as_it_was_trained(tiny: Path, tmp_path: Path, way: str) -> None:
    method, tables = WAYS[way]
    run = trained(tiny, tmp_path, {"type": "outcome_reward", **method}, **tables)
    loss, auc = logged(run, "loss"), logged(run, "held_out_auc")
    assert way == "head" or sum(loss[-6:]) < 0.95 * sum(loss[:6])
    assert auc[-1] > (0.6 if way == "head" else 0.9)
    assert run.result is not None
    manifest = read_manifest(run.result.path, kinds=("orm",))
    assert manifest.metrics["held_out_auc"] == auc[-1]
    # What the trainer knew of the held-out replies, and what the server says of them.
    rows = list(run.test_rows)
    served_scores = served(run.result.path, rows)
    measured = discrimination(
        [
            Graded(row.prompt[0].content, score, row.label > 0.5)
            for row, score in zip(rows, served_scores, strict=True)
        ]
    )
    for name, value in measured.items():
        assert manifest.metrics[f"held_out_{name}"] == pytest.approx(value, abs=1e-3)
    again = run.recipe.model_copy(
        update={"model": f"checkpoint:{run.result.spec}", "adapter": None, "name": "again"}
    )
    other = Run(again, tmp_path, run.store, run._progress, print)
    method = OutcomeReward()
    assert method.scores(other, method.load(other), rows) == pytest.approx(served_scores, abs=1e-5)


def test_below_a_new_head_an_adapter_of_the_policy_is_merged(tiny: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Say x"}, {"role": "assistant", "content": "x it is"}]
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": turns}] * 4)
    policy = begin(recipe(tiny, "sft", rows, adapter=LORA), tmp_path / "policy")
    policy.recipe.method.train(policy)
    assert policy.result is not None
    said = recipe(tiny, "outcome_reward", rows, adapter=LORA, name="head")
    said = said.model_copy(update={"model": f"checkpoint:{policy.result.spec}"})
    run = Run(said, tmp_path, policy.store, policy._progress, print)
    model = run.policy("SEQ_CLS", num_labels=1)
    trained = {name for name, weights in model.named_parameters() if weights.requires_grad}
    assert any("score" in name for name in trained)
    layer = "model.layers.0.self_attn.q_proj"
    below = model.get_submodule(f"base_model.model.{layer}")
    plain = run.base._replace(adapter=None)
    before = load_model(plain, dtype="float32", adapted=False).get_submodule(layer)
    merged = load_model(run.base, dtype="float32", adapted=False).get_submodule(layer)
    assert torch.equal(below.base_layer.weight, merged.weight)
    assert not torch.equal(merged.weight, before.weight)


def test_frozen_parts_stay_and_reuse_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    method = {"type": "outcome_reward", "trained_layers": 1}
    runs = {}
    for reuse in (False, True):
        directory = tmp_path / str(reuse)
        directory.mkdir()
        runs[reuse] = trained(
            tiny, directory, {**method, "reuse_frozen": reuse}, training={"max_steps": 4}
        )
    assert logged(runs[True], "loss") == pytest.approx(logged(runs[False], "loss"), rel=1e-4)
    before = load_file(tiny / "model.safetensors")
    after = load_file(runs[True].result.path / "model.safetensors")  # type: ignore[union-attr]
    for name, tensor in after.items():
        if name in before:
            frozen = "embed" in name or "layers.0." in name
            assert torch.equal(tensor, before[name]) == frozen, name


def test_trained_and_served_ids_are_equal(tiny: Path, tmp_path: Path) -> None:
    train = labelled_rows(tmp_path / "train.jsonl", problems=range(1))
    run = begin(recipe(tiny, "outcome_reward", train), tmp_path)
    encoded = OutcomeReward().encode(run)(run.rows[0])
    text = "<|im_start|>user\nProblem 0?<|im_end|>\n<|im_start|>assistant\n00 x<|im_end|>\n"
    assert run.tokenizer.decode(encoded.ids) == text
    reply = [token for token, own in zip(encoded.ids, encoded.mask, strict=True) if own]
    assert run.tokenizer.decode(reply) == "00 x<|im_end|>\n"


def test_a_run_goes_on_where_it_was_killed(tiny: Path, tmp_path: Path) -> None:
    method = {"type": "outcome_reward", "trained_layers": 1, "reuse_frozen": True}
    run = trained(tiny, tmp_path, method, training={"max_steps": 12, "save_steps": 5})
    assert run.result is not None
    whole = logged(run, "loss")
    (run.directory / "result.json").unlink()
    (run.directory / "log.jsonl").unlink()
    run.recipe.method.train(begin(run.recipe, tmp_path))
    # From the state at step 10, or 12: what it logs again it logged before.
    rest = logged(run, "loss")
    assert len(rest) < 3
    assert rest == pytest.approx(whole[len(whole) - len(rest) :], rel=1e-3)


def test_figures_of_scores() -> None:
    replies = [
        Graded("a", 0.9, True),
        Graded("a", 0.8, False),
        Graded("b", 0.2, False),
        Graded("b", 0.1, True),
    ]
    found = discrimination(replies)
    # Pairs: (0.9, 0.8) (0.9, 0.2) won, (0.1, 0.8) (0.1, 0.2) lost; within: one won, one lost.
    assert found == {"auc": 0.5, "auc_within": 0.5, "best": 0.5, "random": 0.5}
    assert "auc" not in discrimination(replies[:1])
    assert calibrated(replies, {}) is None
