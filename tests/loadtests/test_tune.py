"""Tuning on made-up pools where the right table is known, and spending by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtests.bench import app
from loadtests.pools import Manifest, Pool, Recorded, Sample, append, write_manifest
from loadtests.spending import Spent, fixed, probed, seen, whole
from loadtests.tasks.base import Problem
from loadtests.tune import cross_fit, fold_tables, folds_of, learn, play
from loadtests.tuning import tune
from strategies.allocation import Choice, Row, Table
from strategies.budget import Budget
from strategies.compute_optimal import ComputeOptimal
from tests.strategies.harness import Bench
from tests.strategies.test_cascade import Deck
from verifiers.types import Sampling

SC = {n: Choice(type="self_consistency", n=n) for n in (1, 4, 8, 16)}
ADAPTIVE = Choice.model_validate({"type": "adaptive_consistency", "n": 16, "confidence": 0.8})


def samples(answers: str, *, tokens: int = 100, logprob: float = -0.5) -> tuple[Sample, ...]:
    """Return samples by their answers: "a" is right, "-" abstains."""
    return tuple(
        Sample(
            "p",
            number,
            "",
            "stop",
            1,
            tokens,
            logprobs=(logprob,),
            answer=None if answer == "-" else answer,
            correct=answer == "a",
        )
        for number, answer in enumerate(answers)
    )


def recorded(name: str, answers: str, **more: float) -> Recorded:
    return Recorded(Problem(name, (), ""), samples(answers, **more))  # type: ignore[arg-type]


EASY = "a" * 16
TURNS = "aaaaaaabcdefghij"
"""Four samples rarely have two that agree; sixteen always have a majority, and it is right."""
HOPELESS = "bbbbbbbbbbbb----"


def test_a_budget_pays_whole_samples() -> None:
    drawn = samples("abcd")
    assert [len(whole(drawn, budget)) for budget in (0, 99, 100, 399, 400, 999)] == [
        0, 0, 1, 3, 4, 4,
    ]  # fmt: skip


def test_fixed_strategies_by_hand() -> None:
    order = samples("bbaaa" + "c" * 11)
    assert fixed(SC[1], order, 10_000) == Spent(0.0, 100)
    assert fixed(SC[8], order, 10_000) == Spent(1.0, 800)
    assert fixed(SC[16], order, 10_000) == Spent(0.0, 1600)
    assert fixed(SC[16], order, 550) == Spent(1.0, 550)
    decided = samples("aaaa" + "b" * 12)
    # 4 against 0: P(θ > ½) for Beta(5, 1) is 31/32
    assert fixed(ADAPTIVE, decided, 10_000) == Spent(1.0, 400)


def test_ties_go_to_the_surer_reply_as_in_the_server() -> None:
    sure = samples("a", logprob=-0.1)
    assert fixed(SC[4], (*samples("b"), *sure), 10_000).correct == 1.0
    assert fixed(SC[4], (*samples("a", logprob=-0.9), *samples("b")), 999).correct == 0


def test_confidence_weighs_votes() -> None:
    vote = Choice(type="confidence_vote", n=3)
    order = (*samples("bb", logprob=-9.0), *samples("a", logprob=-0.01))
    # weights e^0, e^0 and e^0.99: 2 against 2.69
    assert fixed(vote, order, 10_000).correct == 1.0
    assert fixed(SC[4], order, 10_000).correct == 0.0


def test_probes_come_first_and_the_budget_sets_the_rest() -> None:
    order = samples("bbbb" + "a" * 12)
    assert probed(None, order, 10_000, 4) == Spent(0.0, 400)
    assert probed(SC[8], order, 10_000, 4).tokens == 800
    assert probed(SC[16], order, 10_000, 4) == Spent(1.0, 1600)
    assert probed(SC[16], order, 950, 4) == Spent(1.0, 900)
    assert probed(SC[16], order, 350, 4) == Spent(0.0, 350)


def test_probes_are_described_as_the_server_describes_them() -> None:
    found = seen(samples("aab-"))
    assert (found["agreement"], found["abstentions"]) == (0.5, 0.25)


def test_a_problem_that_two_models_were_asked_stays_in_one_fold() -> None:
    ids = [str(number) for number in range(10)] * 2
    parts = folds_of(ids, 2, seed=1)
    assert sorted(parts[0] + parts[1]) == list(range(20))
    assert not {ids[row] for row in parts[0]} & {ids[row] for row in parts[1]}
    assert parts != folds_of(ids, 2, seed=2)


def known() -> list[Recorded]:
    """Return easy, turning and hopeless problems, that look as they are."""
    kinds = ((EASY, -0.05), (TURNS, -0.3), (HOPELESS, -0.3))
    return [
        recorded(f"{answers[-1]}{number}", answers, logprob=logprob)
        for answers, logprob in kinds
        for number in range(8)
    ]


def test_the_right_table_is_found() -> None:
    problems = known()
    outcomes = play(problems, (500, 2_000), orders=16)
    table = learn(outcomes, range(len(problems)), {}, 3)
    easy = table.bin(outcomes.features[0][0])
    assert easy == 0
    # easy: the probes agree, more buys nothing
    assert table.choices(easy, 2_000) == ()
    # where they do not agree, only all 16 are always right, and 500 tokens pay but the probes
    turning = [table.choices(table.bin(found), 2_000) for found in outcomes.features[8]]
    assert {each.n for choices in turning for each in choices} == {16}
    cheap = [table.choices(table.bin(found), 500) for found in outcomes.features[8]]
    assert all(not each or each[0].n == 16 for each in cheap)


def test_cross_fitting_judges_by_what_was_not_learned_on() -> None:
    problems = known()
    outcomes = play(problems, (500, 2_000), orders=16)
    parts = folds_of(outcomes.ids, 2, seed=0)
    tables = fold_tables(outcomes, parts, 3)
    judged = cross_fit(outcomes, tables, parts, range(len(problems)))[2_000]
    assert judged.correct[:8].tolist() == [1.0] * 8
    assert judged.tokens[:8].tolist() == [400.0] * 8
    assert judged.correct[16:].tolist() == [0.0] * 8
    assert judged.correct.mean() > 0.6
    assert judged.widest_correct.mean() == pytest.approx(2 / 3)
    assert judged.tokens.sum() < 0.9 * judged.widest_tokens.sum()


def test_equal_seeds_give_equal_tables() -> None:
    pool = Pool(Path("made-up"), Manifest("t", "m", 16, {}, ()), ())
    pool.__dict__["recorded"] = tuple(known())
    first, second = (tune([pool], bins=3, orders=8, seed=4) for _ in range(2))
    assert first == second
    assert first.table.provenance["pools"][0]["problems"] == 24


def test_a_problem_with_nothing_but_probes_is_refused() -> None:
    with pytest.raises(ValueError, match="no more than 4 samples"):
        play([recorded("p", "aaaa")], orders=2)


def write_pool(path: Path, problems: Sequence[Recorded]) -> None:
    told = tuple(each.problem for each in problems)
    write_manifest(path, Manifest("gsm8k", "tiny", 16, {"temperature": 0.8}, told))
    rows = [replace(row, problem=each.problem.id) for each in problems for row in each.samples]
    append(path / "samples.jsonl.gz", rows)


def test_the_command_writes_a_table_that_the_server_reads(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", known())
    out = tmp_path / "table.json"
    asked = ["tune", str(tmp_path / "pool"), "--out", str(out), "--orders", "4", "--seed", "9"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "tiny, gsm8k, 24 problems" in done.output
    table = Table.model_validate_json(out.read_text())
    assert table.provenance["seed"] == 9
    assert json.loads(out.read_text())["provenance"]["pools"][0]["model"] == "tiny"
    assert CliRunner().invoke(app, ["tune", str(tmp_path / "none")]).exit_code == 1


@pytest.mark.parametrize("seed", range(30))
async def test_playing_gives_what_the_server_does(seed: int) -> None:
    rng = random.Random(seed)
    words, budget = rng.randint(3, 9), rng.randint(40, 200)
    answers = "".join(rng.choices("123-", (4, 2, 1, 1), k=16))
    bench = Bench(Deck(answers, words=words), Budget(budget, 99, 60.0))
    bench.sampling = Sampling(64, seed=1, logprobs=0)
    bench.__post_init__()
    choice = rng.choice((None, SC[8], SC[16], ADAPTIVE, Choice(type="confidence_vote", n=8)))
    told = {"provenance": {}, "probes": 4, "intercept": 0, "features": {}, "thresholds": ()}
    row = Row(max_tokens=1, choices=((choice,) if choice else (),))
    tables = {"gsm8k": Table.model_validate({**told, "rows": [row]})}
    bench.request.service = replace(bench.request.service, tables=tables)
    outcome = await bench.run(ComputeOptimal())
    drawn = {each.text: each for each in outcome.candidates}
    order = []
    for number, answer in enumerate(answers):
        said = drawn.get(text := Deck.text(answer, words))
        order.append(
            Sample(
                "p", number, text, "stop", 1, said.tokens if said else words,
                logprobs=tuple(each.logprob for each in said.logprobs) if said else (-1.0,),
                answer=None if answer == "-" else answer, correct=answer == outcome.answer,
            )
        )  # fmt: skip
    played = probed(choice, order, budget, 4)
    assert played.tokens == bench.ledger.total.completion_tokens
    assert played.correct == (outcome.answer is not None)
