"""Online DPO: which replies make a pair, the loss on them, and that it learns by itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.rewarded import drawn, gained, trained
from tests.training.tiny import begin, logged, recipe, write_rows
from training.encoding import token_logprobs
from training.methods.online_dpo import OnlineDPO, sides
from verifiers.manifest import read_manifest


def test_the_best_is_preferred_to_the_worst() -> None:
    totals = torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert sides(totals).tolist() == [[-1, 1, 0], [0, 0, 0], [1, -1, 0]]


def test_ties_are_no_pairs() -> None:
    method = OnlineDPO()
    made = drawn([1.0, 0.0, 1.0, 1.0, 0.0, 0.5], [1, 2, 1, 1, 2, 2], samples=2)
    assert method.credit(made)["side"].tolist() == [1, -1, 0, 0, -1, 1]


def batch(run: Any, reference: torch.Tensor, side: list[float]) -> dict[str, torch.Tensor]:
    question = run.rows[0].prompt
    rows = [run.encoder.row(question, reply) for reply in ("cat", "rock", "dog", "sand")]
    columns: dict[str, torch.Tensor] = run.encoder.batch(rows)
    mask = columns["reply_mask"][:, 1:]
    spread = reference[:, None] * mask / mask.sum(-1, keepdim=True)
    return {**columns, "reference_logprobs": spread, "side": torch.tensor(side)}


def test_the_closed_form_is_a_mean_over_pairs(tiny: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "A pet?"}])
    said = recipe(
        tiny, "online_dpo", rows, rollouts={"backend": "model"}, rewards=[{"verifier": "regex"}]
    )
    run = begin(said, tmp_path)
    method, policy = said.method, run.policy()
    assert isinstance(method, OnlineDPO)
    theirs = torch.tensor([-10.0, -12.0, -11.0, -13.0])
    columns = batch(run, theirs, [1.0, -1.0, 0.0, 0.0])
    ratios = token_logprobs(policy, columns).sum(-1).detach() - theirs
    margin = float(ratios[0] - ratios[1])
    loss, numbers = method.loss(policy, columns)
    # The second prompt's replies are worth the same: it is not in the mean.
    assert float(loss.detach()) == pytest.approx(math.log1p(math.exp(-0.1 * margin)), rel=1e-4)
    assert float(numbers["preferred"]) == 0.5
    tied, _ = method.loss(policy, batch(run, theirs, [0.0] * 4))
    tied.backward()
    assert tied.item() == 0
    assert all(not each.grad.any() for each in policy.parameters() if each.grad is not None)


def test_it_learns_what_is_rewarded(tiny: Path, tmp_path: Path) -> None:
    run = trained(tiny, tmp_path, {"type": "online_dpo", "samples": 2, "learning_rate": 1e-2})
    before, after = gained(run)
    assert after > before + 0.3
    assert logged(run, "loss")[-1] < math.log(2)
    assert run.result is not None
    assert read_manifest(run.result.path).kind == "policy"
