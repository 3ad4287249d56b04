"""mDPO and mIPO: means of groups, what they are with groups of one, and that they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.preferences import log_ratios, measured, one_step, pairs, replies, trained
from tests.training.tiny import begin, logged, recipe, write_rows
from training.losses.preference import dpo_loss, ipo_loss
from training.methods.multi_sample import encode_groups, group_batch

GROUPS: list[dict[str, Any]] = [
    {"prompt": "A pet?", "chosen": ["cat", "a dog"], "rejected": ["rock", "no", "iron"]},
    {"prompt": "A colour?", "chosen": ["red"], "rejected": ["seven", "8"]},
]


def test_a_margin_is_a_difference_of_means(tiny: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "groups.jsonl", GROUPS)
    run = begin(recipe(tiny, "multi_sample", rows), tmp_path)
    batch = group_batch(run.encoder, [encode_groups(run.encoder, row) for row in run.rows])
    third = 1 / 3
    expected = [[0.5, 0.5, -third, -third, -third, 0, 0, 0], [0, 0, 0, 0, 0, 1, -0.5, -0.5]]
    assert batch["weights"].tolist() == [pytest.approx(each) for each in expected]
    ratios = torch.tensor([1.0, 3.0, 0.0, 3.0, 3.0, 2.0, 1.0, 5.0])
    # (1 + 3) / 2 − (0 + 3 + 3) / 3 = 0; 2 − (1 + 5) / 2 = −1
    assert (batch["weights"] @ ratios).tolist() == pytest.approx([0.0, -1.0], abs=1e-6)


def test_it_is_no_sum_over_pairs(tiny: Path, tmp_path: Path) -> None:
    run = one_step(tiny, "multi_sample", write_rows(tmp_path / "groups.jsonl", GROUPS), tmp_path)
    margins, pairwise = [], []
    for row in run.rows:
        chosen, rejected = (log_ratios(run, side) for side in encode_groups(run.encoder, row))
        margins.append(chosen.mean() - rejected.mean())
        pairwise.append(dpo_loss(chosen[:, None] - rejected, 0.1).mean())
    expected = dpo_loss(torch.stack(margins), 0.1).mean()
    assert logged(run, "loss")[0] == pytest.approx(float(expected), rel=1e-4)
    # The mean over pairs (what a Plackett-Luce or pairwise form gives) is larger, by convexity.
    assert torch.stack(pairwise).mean() > expected


@pytest.mark.parametrize("loss", ["mdpo", "mipo"])
def test_groups_of_one_are_pairs(tiny: Path, tmp_path: Path, loss: str) -> None:
    said = begin(recipe(tiny, "dpo", pairs(tmp_path)), tmp_path)
    rows = [
        {"prompt": row.model_dump()["prompt"], "chosen": [row.chosen], "rejected": [row.rejected]}
        for row in said.rows
    ]
    path = write_rows(tmp_path / "groups.jsonl", rows)
    method = {"type": "multi_sample", "loss": loss, "beta": 0.3}
    run = one_step(tiny, method, path, tmp_path / "groups")
    ratios = []
    for side in replies(said):
        found, tokens = log_ratios(run, side), measured(run, run.policy(), side)[1]
        ratios.append(found / tokens if loss == "mipo" else found)
    form = ipo_loss if loss == "mipo" else dpo_loss
    expected = form(ratios[0] - ratios[1], 0.3).mean()
    assert logged(run, "loss")[0] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("loss", ["mdpo", "mipo"])
def test_it_learns_the_preference(tiny: Path, tmp_path: Path, loss: str) -> None:
    rows = write_rows(tmp_path / "groups.jsonl", GROUPS * 4)
    method = {"type": "multi_sample", "loss": loss, "beta": 0.5}
    run, manifest = trained(tiny, method, rows, tmp_path)
    losses = logged(run, "loss")
    assert losses[-1] < 0.7 * losses[0]
    assert logged(run, "margin")[-1] > 0
    assert manifest.kind == "policy"
