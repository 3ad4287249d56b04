"""Load in an open loop: arrivals, figures by hand, and a tiny run with its report."""

from pathlib import Path

import pytest

from loadtests.locust.figures import buckets, figures
from loadtests.locust.plan import BATCH_LINES, Plan, Row
from loadtests.locust.report import Run, write_report
from loadtests.locust.run import main

PLAN = Plan(
    name="chat", scenario="chat", url="http://x", model="m", rate=2, last_rate=2, seconds=10
)


def test_requests_arrive_evenly_or_ever_closer() -> None:
    assert list(PLAN.arrivals()) == [number / 2 for number in range(20)]
    ramp = list(PLAN.model_copy(update={"rate": 0, "last_rate": 4}).arrivals())
    assert len(ramp) == 20
    assert ramp[5] == pytest.approx(5.0)  # 0.2 t² = 5
    falling = list(PLAN.model_copy(update={"rate": 4, "last_rate": 0}).arrivals())
    assert falling[15] == pytest.approx(5.0)  # 4 t - 0.2 t² = 15
    for each in (ramp, falling):
        assert each == sorted(each)
        assert 0 <= each[0] <= each[-1] <= 10


def test_what_is_asked() -> None:
    mixed = PLAN.model_copy(update={"scenario": "mixed"})
    asked = [mixed.ask(number) for number in range(100)]
    assert {each.kind for each in asked} == {"chat", "best_of_n", "beam", "whole"}
    assert len({each.content for each in asked}) == 100
    assert asked == [mixed.ask(number) for number in range(100)]
    assert mixed.batches == 2
    assert len(mixed.batch(0).splitlines()) == BATCH_LINES
    assert PLAN.batches == 0
    [best] = {PLAN.model_copy(update={"scenario": "best_of_n"}).ask(0).kind}
    assert best == "best_of_n"


ROWS = [
    Row(kind="chat", due=0.0, sent=0.0, first=0.2, ended=0.5, tokens=10),
    Row(kind="chat", due=1.0, sent=1.1, first=1.4, ended=3.0, tokens=30),
    Row(kind="chat", due=6.0, sent=6.0, ended=6.2, error="429 queue_full"),
    Row(kind="batch", due=0.0, sent=0.0, ended=9.0, tokens=99),
]


def test_figures_by_hand() -> None:
    found = figures(PLAN, ROWS, deadline_s=1.0)
    assert found.asked == 3
    assert found.offered == pytest.approx(0.3)
    assert found.throughput == pytest.approx(0.2)
    assert found.goodput == pytest.approx(0.1)
    assert found.errors == {"429 queue_full": 1}
    assert found.latency[0] == pytest.approx(1.25)  # of 0.5 and 2.0
    assert found.first[0] == pytest.approx(0.3)  # of 0.2 and 0.4
    assert found.tokens == 20
    assert found.batches == 1
    assert figures(PLAN, [], deadline_s=1.0).latency == ()
    first, second = buckets(PLAN, ROWS, deadline_s=1.0, count=2)
    assert (first.offered, first.good) == (pytest.approx(0.4), pytest.approx(0.2))
    assert (second.offered, second.good) == (pytest.approx(0.2), 0)


def test_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    hostile = PLAN.model_copy(update={"name": "<script>", "key": "ft-secret"})
    page = write_report([Run(hostile, ROWS)], 1.0, "here", tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "<script>" not in page
    assert "http" not in page.replace("data:image", "")
    assert "429 queue_full: 1" in page
    for written in tmp_path.iterdir():
        assert b"ft-secret" not in written.read_bytes()
    assert {each.name for each in tmp_path.iterdir()} == {
        "load.html", "load.json", "load-latency.png", "load-time.png",
    }  # fmt: skip


@pytest.mark.slow
def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            *("--scenarios", "chat", "mixed", "--rate", "10", "--ramp", "5", "15"),
            *("--seconds", "2", "--deadline", "5", "--out", str(tmp_path)),
        ]
    )
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said[-5:-1]] == [
        "chat", "chat, ramp", "mixed", "mixed, ramp",
    ]  # fmt: skip
    for line in said[-5:-1]:
        assert line.endswith("none"), line
        assert line.split("  ")[1] == "20"
    assert (tmp_path / "load.html").stat().st_size > 20_000
