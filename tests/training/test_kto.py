"""KTO: its loss against TRL, the replies that the divergence is estimated from, that it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.preferences import labels, log_ratios, one_step, trained
from tests.training.tiny import begin, logged, recipe
from training.encoding import Encoded
from training.preference.encoded_trainers import mismatched
from training.run import RunError


def row(prompt: int, *reply: int) -> Encoded:
    return Encoded((prompt, *reply), (False, *[True] * len(reply)))


def test_each_prompt_gets_another_ones_reply() -> None:
    rows = [(row(1, 11, 12), True), (row(2, 21), False), (row(3, 31), True), (row(4, 41), True)]
    found = mismatched([*rows, (row(5, 51), False)], 2)
    assert [(each["prompt_ids"], each["KL_completion_ids"]) for each in found] == [
        ((1,), (21,)),
        ((2,), (11, 12)),
        ((3,), (41,)),
        ((4,), (31,)),
        ((5,), (51,)),
    ]
    assert [each["label"] for each in found] == [True, False, True, True, False]
    assert found[0]["completion_ids"] == (11, 12)


def test_what_trl_trains_by_is_the_closed_form(tiny: Path, tmp_path: Path) -> None:
    method = {"type": "kto", "beta": 0.3, "desirable_weight": 1.5}
    run = one_step(tiny, method, labels(tmp_path), tmp_path)
    rows = [run.encoder.row(each.prompt, each.reply) for each in run.rows]
    ratios = log_ratios(run, rows)
    # Which replies are paired with which prompts hangs on the order: the logged one is taken.
    kl = logged(run, "kl")[0]
    desirable = torch.tensor([each.label == 1 for each in run.rows])
    gains = 1.5 * (1 - torch.sigmoid(0.3 * (ratios - kl)))
    losses = 1 - torch.sigmoid(0.3 * (kl - ratios))
    expected = torch.where(desirable, gains, losses).mean()
    assert logged(run, "loss")[0] == pytest.approx(float(expected), rel=1e-4)


def test_it_learns_what_is_desirable(tiny: Path, tmp_path: Path) -> None:
    run, manifest = trained(tiny, "kto", labels(tmp_path), tmp_path)
    losses = logged(run, "loss")
    assert losses[0] == pytest.approx(0.5, rel=1e-3)
    assert losses[-1] < 0.9 * losses[0]
    assert logged(run, "rewards/margins")[-1] > 0
    assert manifest.kind == "policy"


def test_batches_of_one_are_refused(tiny: Path, tmp_path: Path) -> None:
    said = recipe(tiny, "kto", labels(tmp_path), training={"batch_size": 1})
    with pytest.raises(RunError, match=r"training\.batch_size is 1"):
        said.method.train(begin(said, tmp_path))
