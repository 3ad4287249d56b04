"""DPO: its loss in numbers and against TRL, what is trained on, and pairs that are left out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.preferences import (
    LORA,
    PAIRS,
    log_ratios,
    measured,
    one_step,
    pairs,
    replies,
    trained,
)
from tests.training.tiny import begin, logged, recipe, write_rows
from training.losses.preference import dpo_loss
from training.methods.dpo import probable
from training.preference.pairs import encode_pair


def test_the_closed_form() -> None:
    margins = torch.tensor([0.0, 10.0, -10.0])
    expected = [math.log(2), math.log1p(math.exp(-1)), math.log1p(math.exp(1))]
    assert dpo_loss(margins, 0.1).tolist() == pytest.approx(expected)
    # The survey prints E[σ(β margin)]: no logarithm, and it would be made small by disliking.
    assert dpo_loss(margins, 0.1).tolist() != pytest.approx(torch.sigmoid(0.1 * margins).tolist())


def test_the_gradient() -> None:
    margin = torch.tensor([0.3, -2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: dpo_loss(each, 0.5), margin)
    dpo_loss(margin, 0.5).sum().backward()
    # −β σ(−β margin): the further a pair is in the wrong order, the stronger.
    assert margin.grad is not None
    expected = -0.5 * torch.sigmoid(-0.5 * margin.detach())
    assert torch.allclose(margin.grad, expected)


def test_what_trl_trains_by_is_the_closed_form(tiny: Path, tmp_path: Path) -> None:
    run = one_step(tiny, {"type": "dpo", "beta": 0.3}, pairs(tmp_path), tmp_path)
    chosen, rejected = replies(run)
    margins = log_ratios(run, chosen) - log_ratios(run, rejected)
    assert logged(run, "loss")[0] == pytest.approx(float(dpo_loss(margins, 0.3).mean()), rel=1e-4)
    assert logged(run, "rewards/margins")[0] == pytest.approx(0.3 * float(margins.mean()), rel=1e-3)


def test_the_ids_are_those_of_the_engine(tiny: Path, tmp_path: Path) -> None:
    run = begin(recipe(tiny, "dpo", pairs(tmp_path)), tmp_path)
    pair = encode_pair(run.encoder, run.rows[0])
    for row, reply in ((pair.chosen, "cat"), (pair.rejected, "a rock")):
        assert row.ids[: row.start] == run.encoder.prompt(run.rows[0].prompt)
        # Nothing behind the token that ends a turn, though the template writes a newline there.
        assert run.tokenizer.decode(row.ids[row.start :]) == f"{reply}<|im_end|>"


@pytest.mark.parametrize("adapter", [None, LORA])
def test_it_learns_the_preference(
    tiny: Path, tmp_path: Path, adapter: dict[str, object] | None
) -> None:
    run, manifest = trained(
        tiny, {"type": "dpo", "learning_rate": 3e-2 if adapter else 1e-2}, pairs(tmp_path),
        tmp_path, adapter=adapter,
    )  # fmt: skip
    losses = logged(run, "loss")
    assert losses[0] == pytest.approx(math.log(2), rel=1e-3)
    assert losses[-1] < 0.7 * losses[0]
    assert logged(run, "rewards/margins")[-1] > 0
    assert logged(run, "rewards/accuracies")[-1] == 1.0
    assert manifest.kind == ("policy" if adapter is None else "lora")


def test_improbable_pairs_are_left_out(tiny: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", PAIRS)
    said = recipe(tiny, {"type": "dpo", "perplexity_percentile": 70}, rows)
    run = begin(said, tmp_path)
    chosen, _ = replies(run)
    totals, tokens = measured(run, run.reference(), chosen)
    worst = int((-totals / tokens).argmax())
    said.method.train(run)
    assert run.result is not None
    # Of four perplexities the 70th percentile lies between the third and the fourth.
    assert run.result.manifest.metrics == {"pairs": 3, "improbable_pairs": 1}
    encoded: list[Any] = [encode_pair(run.encoder, row) for row in run.rows]
    found = (-totals / tokens).exp().tolist()
    assert probable(encoded, found, 70) == [
        pair for place, pair in enumerate(encoded) if place != worst
    ]


def test_the_percentile_is_of_what_is_there() -> None:
    every: list[Any] = list(range(100))
    found = [float(number) for number in every]
    assert probable(every, found, 95) == every[:95]
    assert probable(every[:1], found[:1], 95) == every[:1]
