"""What strategies that select and stop are worth on the kept pools, beside self-consistency.

    python -m loadtests.worth [--orders 16]

Strategies run as the server runs them (`loadtests/offline.py`): those that may stop early on random
orders of each problem's samples; what draws all 16 sees them once. Differences are paired by
problem; intervals are over problems.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rich.progress import Progress

from loadtests.inference import paired_bootstrap, tost
from loadtests.offline import Played, Player
from loadtests.pools import POOLS, Pool, open_pool
from loadtests.report import circumstances, table, write_section
from strategies.base import Strategy, strategy_classes
from verifiers.equality import AnswerEquality
from verifiers.logprob import Logprob

KEPT = Path(__file__).parent / "data" / "worth.json"
"""The figures of the last run: documents quote them."""
WIDTH = 16
MARGIN = 1.0
"""Points within which two accuracies count as equal (TOST)."""
REFERENCE = "self_consistency"


class Contender(NamedTuple):
    """A strategy with its parameters, under the name that the table gives it."""

    name: str
    strategy: Mapping[str, Any]
    stops: bool = False
    """It may stop before all samples are drawn: then their order matters."""
    watches: bool = False
    """It looks at every token."""

    def built(self) -> Strategy:
        """Return the strategy itself."""
        given = dict(self.strategy)
        return strategy_classes()[given.pop("type")].model_validate(given)


def contenders() -> list[Contender]:
    """Return what is compared; the first is what all others are compared with."""
    deep = {"type": "deep_confidence", "n": WIDTH, "window": 64}
    return [
        Contender(REFERENCE, {"type": "self_consistency", "n": WIDTH}),
        Contender("single", {"type": "single"}, stops=True),
        Contender(
            "best_of_n, random", {"type": "best_of_n", "n": WIDTH, "select": "random"}, stops=True
        ),
        Contender("best_of_n, logprob", {"type": "best_of_n", "n": WIDTH}),
        Contender("weighted_vote, logprob", {"type": "weighted_vote", "n": WIDTH}),
        Contender("confidence_vote", {"type": "confidence_vote", "n": WIDTH}),
        Contender(
            "confidence_vote, Borda",
            {"type": "confidence_vote", "n": WIDTH, "weighting": "borda"},
        ),
        *(
            Contender(
                f"adaptive_consistency, C = {confidence}",
                {"type": "adaptive_consistency", "n": WIDTH, "confidence": confidence, "wave": 1},
                stops=True,
            )
            for confidence in (0.8, 0.9, 0.95, 0.99)
        ),
        Contender(
            "adaptive_consistency, C = 0.95, waves of 4",
            {"type": "adaptive_consistency", "n": WIDTH, "wave": 4},
            stops=True,
        ),
        Contender("early_stopping", {"type": "early_stopping", "n": WIDTH}, stops=True),
        *(
            Contender(
                f"deep_confidence offline, keep {keep}", {**deep, "mode": "offline", "keep": keep}
            )
            for keep in (0.9, 0.1)
        ),
        *(
            Contender(
                f"deep_confidence online, keep {keep}",
                {**deep, "warm_up": 4, "keep": keep},
                stops=True,
                watches=True,
            )
            for keep in (0.9, 0.1)
        ),
    ]


async def play_all(pool: Pool, orders: int, progress: Progress) -> dict[str, list[Played]]:
    """Run every contender on every problem."""
    todo = contenders()
    bar = progress.add_task(pool.name, total=len(todo) * len(pool.recorded))
    cap = pool.manifest.sampling["max_completion_tokens"]
    played: dict[str, list[Played]] = {}
    equality = AnswerEquality()
    try:
        for contender in todo:
            player = Player(equality, Logprob(), cap, grain=1 if contender.watches else cap)
            count = orders if contender.stops else 1
            rows = played.setdefault(contender.name, [])
            for recorded in pool.recorded:
                rows.append(await player.play(contender.built(), recorded, count))
                progress.advance(bar)
    finally:
        await equality.aclose()
    return played


def section(title: str, played: Mapping[str, Sequence[Played]]) -> str:
    """Write down a pool's table."""
    reference = played[REFERENCE]
    head = ["strategy", "right %", "minus self_consistency, points", "samples", "tokens", "of its"]
    body = []
    for name, rows in played.items():
        pairs = list(zip(rows, reference, strict=True))
        gains = [100 * (one.correct - other.correct) for one, other in pairs]
        tokens = fmean(row.tokens for row in rows)
        body.append(
            [
                name,
                f"{100 * fmean(row.correct for row in rows):.1f}",
                "–" if name == REFERENCE else _difference(gains),
                f"{fmean(row.samples for row in rows):.1f}",
                f"{tokens:,.0f}",
                f"{100 * tokens / fmean(row.tokens for row in reference):.0f} %",
            ]
        )
    return f"{title}\n\n{table(head, body)}"


def _difference(gains: Sequence[float]) -> str:
    interval, equal = paired_bootstrap(gains), tost(gains, MARGIN)
    mark = ", equal" if equal.equivalent else ""
    return f"{interval.mean:+.1f} ({interval.low:+.1f} to {interval.high:+.1f}{mark})"


def main() -> None:
    """Run all, keep the figures, and write the section of `docs/results.md`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--orders", type=int, default=16)
    options = parser.parse_args()
    pools = [open_pool(path.parent) for path in sorted(POOLS.glob("*/manifest.json"))]
    kept = {}
    with Progress() as progress:
        for pool in pools:
            kept[f"{pool.title}:"] = asyncio.run(play_all(pool, options.orders, progress))
    KEPT.write_text(json.dumps({"orders": options.orders, "pools": kept}))
    made = circumstances("python -m loadtests.worth")
    text = "\n\n".join(section(title, played) for title, played in kept.items())
    note = f"Means over {options.orders} orders. `equal`: within ±{MARGIN:.0f} point (TOST)."
    write_section("worth", f"{text}\n\n{note}\n{made}")


if __name__ == "__main__":
    main()
