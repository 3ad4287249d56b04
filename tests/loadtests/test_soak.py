"""The soak finds what it looks for, and finds nothing in this server."""

import random
from pathlib import Path

import pytest

from loadtests.soak import Found, _leaks, _ledger, run
from loadtests.soak_clients import Notes, draw
from loadtests.soak_watch import Reading, growth

CALM = Reading(0.0, 200.0, 10, 20, 5, 0, 0, 0)


def test_the_slope_of_memory_and_its_interval() -> None:
    def readings(per_hour: float) -> list[Reading]:
        noise = random.Random(0)
        grown = [200 + per_hour * at / 3600 + noise.gauss(0, 0.3) for at in range(1200)]
        return [CALM._replace(at=float(at), memory=each) for at, each in enumerate(grown)]

    flat, leaking = growth(readings(0.0)), growth(readings(60.0))
    assert flat.low < 0 < flat.high
    assert leaking.low < 60 < leaking.high
    assert leaking.low > 55
    assert flat.high < 5


def test_what_is_left_over_is_found() -> None:
    idle = {"running": 0}
    assert not _leaks(CALM, CALM._replace(memory=999.0), idle)
    assert _leaks(CALM, CALM._replace(tasks=6), idle)
    assert _leaks(CALM, CALM._replace(sockets=19), idle)
    assert _leaks(CALM, CALM._replace(running=1), idle)
    assert _leaks(CALM, CALM, {"running": 1})


@pytest.mark.parametrize(
    ("claimed", "exact", "whole", "broken", "right"),
    [
        (30, True, 30, 0, True),
        (29, True, 30, 0, False),
        (31, True, 30, 0, False),
        (31, False, 30, 5, True),
        (36, False, 30, 5, True),
        (29, False, 30, 5, False),
        (32, True, 30, 5, True),
        (36, True, 30, 5, False),
    ],
)
def test_ledgers_are_compared(
    claimed: int, exact: bool, whole: int, broken: int, right: bool
) -> None:
    notes = Notes(claims={"soak-1": (claimed, exact)})
    before, after = {"tokens": {"soak-1": (5, 1)}}, {"tokens": {"soak-1": (whole + 5, broken + 1)}}
    assert (not _ledger(notes, before, after)[1]) == right


def test_a_seed_gives_the_same_load() -> None:
    assert [draw(1, n) for n in range(50)] == [draw(1, n) for n in range(50)]
    assert [draw(1, n) for n in range(50)] != [draw(2, n) for n in range(50)]
    assert len({draw(1, n).kind for n in range(200)}) == 8


@pytest.mark.slow
def test_twenty_seconds(tmp_path: Path) -> None:
    found: Found = run(20 / 60, clients=8, seed=1, out=tmp_path, warm_up=4)
    assert not found.wrong
    assert found.requests > 100
    assert found.exact > 30
    assert {"late", "error", "busy", "hang-up"} <= found.faults.keys()
    assert {"single answered", "stream answered", "wrong refused"} <= found.endings.keys()
    assert any(ending.endswith("left") for ending in found.endings)
    assert any(ending.endswith("failed") for ending in found.endings)
    assert (tmp_path / "soak.png").stat().st_size > 10_000
