"""Step-DPO: which step is compared, that nothing else is trained on, and that it learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.preferences import log_ratios, one_step, trained
from tests.training.tiny import begin, logged, recipe, write_rows
from training.data import DataError
from training.losses.preference import dpo_loss
from training.methods.step_dpo import Step, encode_steps, first_difference
from training.rows import Pair

BEGUN = "2+3 first.\n\n"
ROWS = [
    {"prompt": "2+3+4?", "prefix": BEGUN, "chosen": "5+4.\n\n", "rejected": "6+4.\n\n"},
    {"prompt": "2+3+4?", "chosen": BEGUN + "5+4.\n\n9", "rejected": BEGUN + "6+4.\n\n10"},
    {"prompt": "1+1?", "chosen": "2", "rejected": "It is 3."},
]


def pair(chosen: str, rejected: str, prefix: str = "") -> Pair:
    return Pair(prompt="q", chosen=chosen, rejected=rejected, prefix=prefix)


@pytest.mark.parametrize(
    ("row", "prefix", "chosen", "rejected"),
    [
        (pair("b\n\nc", "d\n\ne", "a\n\n"), "a\n\n", Step("b\n\n", False), Step("d\n\n", False)),
        (pair("a\n\nb", "a\n\nc"), "a\n\n", Step("b", True), Step("c", True)),
        (pair("a\n\nb", "a\n\nb\n\nc"), "a\n\n", Step("b", True), Step("b\n\n", False)),
        (pair("a\n\n", "a\n\nb"), "a\n\n", Step("", True), Step("b", True)),
        (pair("b", "c", "a\n\n"), "a\n\n", Step("b", False), Step("c", False)),
        (pair("b\n\nc", "b\n\nd", "a\n\n"), "a\n\nb\n\n", Step("c", True), Step("d", True)),
    ],
)
def test_the_first_difference(row: Pair, prefix: str, chosen: Step, rejected: Step) -> None:
    assert first_difference(row, "\n\n") == (prefix, chosen, rejected)


def test_nothing_but_the_step_is_trained_on(tiny: Path, tmp_path: Path) -> None:
    run = begin(recipe(tiny, "step_dpo", write_rows(tmp_path / "r.jsonl", ROWS)), tmp_path)
    pairs = [encode_steps(run.encoder, row, "\n\n") for row in run.rows]
    texts = [[run.tokenizer.decode(each.ids[each.start :]) for each in pair] for pair in pairs]
    assert texts == [["5+4.\n\n", "6+4.\n\n"]] * 2 + [["2", "It is 3."]]
    for each in pairs[0]:
        before = run.tokenizer.decode(each.ids[: each.start])
        assert before == run.encoder.prompt_text(run.rows[0].prompt) + BEGUN
    # The same beginning, given as prefix or found: the same ids.
    assert pairs[0] == pairs[1]
    with pytest.raises(DataError, match="the same: 'a'"):
        encode_steps(run.encoder, pair("a", "a"), "\n\n")


def test_what_trl_trains_by_is_the_closed_form(tiny: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    run = one_step(tiny, "step_dpo", rows, tmp_path)
    pairs = [encode_steps(run.encoder, row, "\n\n") for row in run.rows]
    margins = log_ratios(run, [each.chosen for each in pairs]) - log_ratios(
        run, [each.rejected for each in pairs]
    )
    assert logged(run, "loss")[0] == pytest.approx(float(dpo_loss(margins, 0.4).mean()), rel=1e-4)


def test_it_learns_the_preference(tiny: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS * 2)
    run, manifest = trained(tiny, "step_dpo", rows, tmp_path)
    losses = logged(run, "loss")
    assert losses[-1] < 0.7 * losses[0]
    assert logged(run, "rewards/margins")[-1] > 0
    assert manifest.kind == "policy"
