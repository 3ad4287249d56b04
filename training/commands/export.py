"""`forethought export`: data sets out of traces and pools."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer
from rich.console import Console

from server.models import ModelError, TerminalProgress
from verifiers.errors import ForethoughtError

Kind: TypeAlias = Literal["sft", "pairs", "groups", "rankings", "labels", "steps", "prompts"]
Label: TypeAlias = Literal["math_shepherd", "omega_prm"]


def export(
    kind: Annotated[Kind, typer.Option(help="Which rows; `docs/training.md` shows them.")],
    out: Annotated[Path, typer.Option(help="A directory for train, test and the report.")],
    traces: Annotated[
        list[str] | None,
        typer.Option(
            help="A server's file of traces, or the address of the store that has them; the "
            "server may be running."
        ),
    ] = None,
    pool: Annotated[
        list[Path] | None, typer.Option(help="A directory of `forethought bench record`.")
    ] = None,
    verifier: Annotated[
        str | None,
        typer.Option(help="Whose recorded scores say what is right, where no reference does."),
    ] = None,
    min_score: Annotated[float, typer.Option(help="From which score on a reply is right.")] = 0.5,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Take the majority's answer for right from this share on, where nothing else "
            "tells. Default: never.",
        ),
    ] = None,
    per_problem: Annotated[
        int | None,
        typer.Option(min=1, help="Most rows of a problem; of groups, most replies of a side."),
    ] = None,
    hardest: Annotated[
        bool, typer.Option("--hardest", help="Pairs take the likeliest wrong replies.")
    ] = False,
    soft: Annotated[
        bool, typer.Option("--soft", help="Labels are scores, not right or wrong.")
    ] = False,
    hard: Annotated[
        bool, typer.Option("--hard", help="Steps are right if any reply through them was.")
    ] = False,
    separator: Annotated[
        str, typer.Option(help="What ends a step for the verifier. Default: a blank line.")
    ] = "\n\n",
    test_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the problems for test.jsonl.gz.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the split and the choice of pairs.")] = 0,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="JSONL, or a pool: leave out the questions that this test asks too."),
    ] = None,
    ngram: Annotated[
        int,
        typer.Option(min=0, help="Words in a row that make two questions one; 0: all words."),
    ] = 13,
    label: Annotated[
        Label | None,
        typer.Option(help="Label steps anew, by completions. Default: as was recorded."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="What completes; see `models`.")] = None,
    url: Annotated[
        str | None, typer.Option(help="A server that completes. Default: in this process.")
    ] = None,
    judge: Annotated[str, typer.Option(help="The verifier of completed replies.")] = "math",
    completions: Annotated[int, typer.Option(min=1, help="From each step.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a completion.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="Of completions.")] = 1.0,
) -> None:
    """Turn recorded replies into a data set.

    What is right is said by the task (pools), else by the reference that a request gave its
    verifier, else by the recorded scores of `--verifier`, else by the majority.
    """
    from training.export.kinds import Selection
    from training.export.labelling import Completions, Labelling, completing_with
    from training.export.pipeline import Order
    from training.export.pipeline import export as run
    from training.export.progress import Bars, report_table
    from training.export.verdicts import Evidence

    if not traces and not pool:
        raise typer.BadParameter("give --traces or --pool", param_hint="--traces")
    if label is not None and (model is None or kind != "steps"):
        raise typer.BadParameter("is for --kind steps, with a --model", param_hint="--label")
    order = Order(
        kind,
        out,
        tuple(traces or ()),
        tuple(pool or ()),
        Evidence(verifier, min_score, min_agreement),
        Selection(per_problem, hardest, soft, hard, separator, seed),
        test_share,
        seed,
        tuple(against or ()),
        ngram,
        None if label is None else Labelling(label, completions),
    )
    asked = Completions(model or "", url, judge, max_tokens, temperature, seed)
    try:
        with Bars() as bars:
            report = run(order, bars, partial(completing_with, asked, TerminalProgress()))
    except (ValueError, OSError, ModelError, ForethoughtError) as error:
        sys.stderr.write(f"forethought: {error}\n")
        raise typer.Exit(1) from error
    Console().print(report_table(report))
