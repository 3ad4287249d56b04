"""`forethought bench`: record samples once, and judge them as often as wanted."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from loadtests.endpoint import Endpoint, RequestFailed
from loadtests.grading import Grader, grade_pool
from loadtests.pools import POOLS, Manifest, Sample, open_pool, pack, read_manifest
from loadtests.progress import Bar
from loadtests.record import SAMPLING, Outcome, Recorder, choose, found
from loadtests.report import circumstances, write_section
from loadtests.tasks.discovery import task_classes, task_named
from verifiers.equality import AnswerEquality

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Record samples of a model once, and judge them as often as wanted.",
)

Kind: TypeAlias = Literal["temperature", "isotonic"]
PoolPath = Annotated[str, typer.Argument(metavar="POOL", help="Its directory, or a kept one.")]


@app.command()
def record(
    task: Annotated[str, typer.Option(help="NAME or NAME:ARGUMENT; see `bench tasks`.")],
    model: Annotated[str, typer.Option(help="As the endpoint calls it.")],
    out: Annotated[Path, typer.Option(help="The pool's directory; one that is there goes on.")],
    url: Annotated[str, typer.Option(help="The endpoint.")] = "http://127.0.0.1:8000",
    samples: Annotated[int, typer.Option(min=1, help="Of each problem.")] = 16,
    problems: Annotated[int | None, typer.Option(min=1, help="How many; default all.")] = None,
    like: Annotated[str | None, typer.Option(help="A pool whose problems come first.")] = None,
    seed: Annotated[int, typer.Option(help="Of the samples and of the choice.")] = 0,
    temperature: Annotated[float, typer.Option()] = SAMPLING["temperature"],
    top_p: Annotated[float, typer.Option()] = SAMPLING["top_p"],
    max_tokens: Annotated[int, typer.Option(min=1)] = SAMPLING["max_completion_tokens"],
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A field of the request; null leaves one out, as OpenAI wants it of top_k and "
            "repetition_penalty.",
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 32,
    note: Annotated[str, typer.Option(help="Engine, precision, licence.")] = "",
) -> None:
    """Record samples; what the pool already holds is not asked again.

    A bearer key comes from FORETHOUGHT_BENCH_KEY or OPENAI_API_KEY.
    """
    named = {"temperature": temperature, "top_p": top_p, "max_completion_tokens": max_tokens}
    sampling = {**SAMPLING, **named, **_fields(fields or ())}
    with _reported():
        chosen = task_named(task, seed)
        first = [each.id for each in read_manifest(_path(like)).problems] if like else []
        manifest = Manifest(
            chosen.spec,
            model,
            samples,
            {key: value for key, value in sampling.items() if value is not None},
            choose(chosen.problems(), problems, seed, first),
            seed,
            note,
        )
        found(out, manifest)
        outcome = asyncio.run(_record(out, manifest, url, concurrency))
    _conclude(out, outcome)


@app.command()
def grade(pool: PoolPath) -> None:
    """Judge a pool again with today's rules, and pack it into one shard."""
    with _reported():
        old = open_pool(_path(pool))
        rows = asyncio.run(grade_pool(old))
        pack(old.path, rows)
    before = {(row.problem, row.sample): row for row in reversed(old.rows)}
    changed = sum(before[row.problem, row.sample] != row for row in rows)
    judged = [row for row in rows if row.correct is not None]
    _say(f"{len(rows)} rows, {len(old.recorded)} problems complete, {changed} rows changed")
    if judged:
        _say(f"correct {_share(judged, 'correct')}, leniently {_share(judged, 'lenient')}")
        _say(f"abstained {sum(row.answer is None for row in judged) / len(judged):.1%}")


@app.command()
def tune(
    pools: Annotated[list[str], typer.Argument(metavar="POOL…", help="Directories or kept ones.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the table, as JSON.")] = None,
    bins: Annotated[int, typer.Option(min=1, max=16, help="Of difficulty.")] = 3,
    orders: Annotated[int, typer.Option(min=1, help="Of each problem's samples.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the folds and the orders.")] = 0,
    report: Annotated[
        bool, typer.Option("--report", help="Write docs/results.md, in a checkout.")
    ] = False,
) -> None:
    """Learn from pools on what `compute_optimal` should spend, and say what that is worth."""
    from loadtests import tuning

    with _reported():
        opened = [open_pool(_path(pool)) for pool in pools]
        tuned = tuning.tune(opened, bins=bins, orders=orders, seed=seed)
        if out is not None:
            written = tuned.table.model_dump(mode="json")
            out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    _say(tuned.report)
    if report:
        made = circumstances(f"forethought bench tune {' '.join(pools)}")
        write_section("tune", f"{tuned.report.strip()}\n\n{made}")


@app.command()
def calibrate(
    verifier: Annotated[str, typer.Option(help="Its name at the server.")],
    pool: Annotated[str, typer.Option(help="Its directory, or a kept one.")],
    out: Annotated[Path, typer.Option(help="Where to write the calibration, as JSON.")],
    url: Annotated[str, typer.Option(help="Our server.")] = "http://127.0.0.1:8000",
    kind: Annotated[Kind, typer.Option(help="temperature is for scores in [0, 1].")] = "isotonic",
    problems: Annotated[int | None, typer.Option(min=2, help="How many; default all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice and the halves.")] = 0,
) -> None:
    """Learn from a pool what a verifier's score is worth, and say how well that holds."""
    from loadtests import calibrate as calibration

    with _reported():
        opened = open_pool(_path(pool))
        drawn = calibration.chosen(opened, problems, seed)
        with Bar() as bar:
            total = sum(len(each.samples) for each in drawn)
            bar.start(total, total)
            scored = asyncio.run(calibration.score_pool(opened, drawn, url, verifier, bar.advance))
        origin = {"verifier": verifier, "pool": opened.name, "seed": seed}
        fitted = calibration.fit(scored, kind, origin)
        calibration.write(fitted.calibration, out)
    _say(f"{sum(map(len, scored))} of {total} samples scored, the others abstained on or not paid")
    _say(fitted.report)
    _say(f"written to {out}: `calibration` of the verifier's configuration takes it")


@app.command()
def tasks() -> None:
    """List the tasks."""
    for name, cls in task_classes().items():
        summary = (inspect.getdoc(cls) or "").partition("\n")[0]
        _say(f"{name:14} {summary}")
        if cls.takes:
            _say(f"{'':14}   {name}:ARGUMENT: {cls.takes}")


async def _record(out: Path, manifest: Manifest, url: str, concurrency: int) -> Outcome:
    equality = AnswerEquality()
    grader = Grader(task_named(manifest.task, manifest.seed), manifest.problems, equality)
    try:
        async with Endpoint(url) as endpoint:
            with Bar() as bar:
                recorder = Recorder(out, manifest, endpoint, grader, bar, concurrency)
                bar.start(len(manifest.problems) * manifest.samples, len(recorder.todo))
                await equality.start()
                return await recorder.run()
    finally:
        await equality.aclose()


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, RequestFailed) as error:
        sys.stderr.write(f"forethought: {error}\n")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(130) from error


def _conclude(out: Path, outcome: Outcome) -> None:
    """Tell what is there and how to get the rest; exit by it."""
    _say(f"{outcome.written} rows written to {out}")
    again = "The same command goes on where this one stopped."
    if outcome.interrupted:
        sys.stderr.write(f"forethought: interrupted. {again}\n")
        raise typer.Exit(130)
    if outcome.gave_up:
        sys.stderr.write("forethought: only failures for a while: the rest was not asked.\n")
    if outcome.failed:
        sys.stderr.write(f"forethought: {len(outcome.failed)} samples failed. {again}\n")
        raise typer.Exit(1)


def _fields(pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE; a value that is not JSON is a string."""
    fields = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--set")
        try:
            fields[key] = json.loads(value)
        except ValueError:
            fields[key] = value
    return fields


def _path(pool: str) -> Path:
    """Return a pool's directory: as given, or one of those that are kept with the code."""
    return Path(pool) if Path(pool).exists() or not (POOLS / pool).exists() else POOLS / pool


def _share(rows: Sequence[Sample], verdict: str) -> str:
    return f"{sum(getattr(row, verdict) for row in rows) / len(rows):.1%}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
