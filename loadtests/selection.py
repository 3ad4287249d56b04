"""What choosing among recorded samples is worth: a table for each kept pool, and its plot.

    python -m loadtests.selection

Every figure is an expectation over all subsets of k of the recorded samples, so that nothing hangs
on their order. Random choice and the oracle are the floor and the ceiling of any selection: pass@1,
and whether a right sample is there at all (coverage, pass@k).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

from loadtests.curves import Selected, curves
from loadtests.estimators import coverage_law
from loadtests.inference import Interval, cluster_bootstrap, paired_bootstrap
from loadtests.plots import plot_curves
from loadtests.pools import POOLS, Pool, open_pool
from loadtests.report import RESULTS, circumstances, table, write_section

KS = (1, 2, 4, 8, 16)
SELECTIONS = {
    "random": "random choice (pass@1)",
    "majority": "majority@k",
    "weighted": "majority@k, votes weighted by log-probability",
    "best": "best-of-k by log-probability",
    "oracle": "oracle (coverage@k)",
}
"""The columns of `Selected`, as tables and plots call them."""

Curves: TypeAlias = Mapping[int, Sequence[Selected]]


def curves_of(pool: Pool) -> Curves:
    """Return what each problem's samples are worth, by k."""
    problems = [recorded.samples for recorded in pool.recorded]
    return curves(problems, [k for k in KS if k <= pool.manifest.samples])


def section(pool: Pool, by_k: Curves) -> str:
    """Write down what a pool shows."""
    problems = [recorded.samples for recorded in pool.recorded]
    rows = [row for samples in problems for row in samples]
    most = max(by_k)
    tokens = fmean(row.completion_tokens for row in rows)
    lenient = fmean(bool(row.lenient) for row in rows)
    abstained = cluster_bootstrap(
        [[100 * (row.answer is None) for row in samples] for samples in problems]
    )
    coverage = {k: fmean(_chances(by_k, "oracle", k)) for k in by_k}
    law = coverage_law({k: c for k, c in coverage.items() if c < 1})
    head = [pool.title, *(f"k = {k}" for k in by_k)]
    body = [
        [name, *(_cell(_percent(_chances(by_k, field, k))) for k in by_k)]
        for field, name in SELECTIONS.items()
    ]
    body.append(["tokens a question", *(f"{k * tokens:,.0f}" for k in by_k)])
    return f"""\
{table(head, body)}

Percent right, with 95 % intervals over problems. Against one sample, majority@{most} gains
{_points(by_k, "majority", most, "random", 1)}, best-of-{most} by log-probability
{_points(by_k, "best", most, "random", 1)}; majority@{most} against majority@{most // 2}:
{_points(by_k, "majority", most, "majority", most // 2)}.
{_cell(abstained)} % of the samples give no answer that can be read; {100 * lenient:.1f} % would be
right if the last number counted where none is marked. Coverage, while below 100 %, grows as
log(-log c) = {law.intercept:.3f} {law.slope:+.3f} log k, R² = {law.r_squared:.4f}."""


def _chances(by_k: Curves, field: str, k: int) -> list[float]:
    return [getattr(each, field) for each in by_k[k]]


def _percent(chances: Sequence[float]) -> Interval:
    return paired_bootstrap([100 * chance for chance in chances])


def _cell(interval: Interval) -> str:
    return f"{interval.mean:.1f} ({interval.low:.1f} to {interval.high:.1f})"


def _points(by_k: Curves, field: str, k: int, other: str, other_k: int) -> str:
    pairs = zip(_chances(by_k, field, k), _chances(by_k, other, other_k), strict=True)
    gain = _percent([one - two for one, two in pairs])
    return f"{gain.mean:+.1f} points ({gain.low:+.1f} to {gain.high:+.1f})"


def plot(pools: Sequence[tuple[Pool, Curves]], path: Path) -> None:
    """Draw every selection over k, a panel for each pool."""
    panels = {
        pool.title: {
            name: {k: _percent(_chances(by_k, field, k)) for k in by_k}
            for field, name in SELECTIONS.items()
        }
        for pool, by_k in pools
    }
    plot_curves(panels, path, x="samples k", y="% right")


def main() -> None:
    """Write the section of `docs/results.md`, and draw the plot beside it."""
    paths = sorted(path.parent for path in POOLS.glob("*/manifest.json"))
    pools = [(pool, curves_of(pool)) for pool in map(open_pool, paths)]
    plot(pools, RESULTS.parent / "selection.png")
    tables = "\n\n".join(section(pool, by_k) for pool, by_k in pools)
    image = "![Percent right over the number of samples, by selection](selection.png)"
    made = circumstances("python -m loadtests.selection")
    write_section("selection", f"{image}\n\n{tables}\n\n{made}")


if __name__ == "__main__":
    main()
