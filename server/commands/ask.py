"""`forethought ask`: one question to a running server, and a view of what its strategy does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.live import Live

from server.commands.live import Lines, Run, answer_text, bill, view

_SILENCE = httpx.Timeout(60.0, connect=5.0)
"""The server gives a sign of life every ten seconds by default, at least every sixty."""


class _Refused(Exception):
    """The server answered with an error, or not at all."""


def ask(
    question: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    strategy: Annotated[
        str, typer.Option(help="Its name; `GET /v1/strategies` lists them.")
    ] = "self_consistency",
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the strategy."),
    ] = None,
    verifier: Annotated[
        str | None, typer.Option(help='Its name, or JSON: {"name": "exact", "reference": "391"}.')
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Tokens that policy and verifier may generate.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Answers to show, best first.")] = None,
    model: Annotated[str | None, typer.Option(help="Default: the server's.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    url: Annotated[str, typer.Option(help="Where the server is.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", help="Where the server asks for one.")
    ] = None,
) -> None:
    """Ask a running server, and watch the samples, votes and scores come in."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    text = sys.stdin.read() if question == "-" else question
    messages.append({"role": "user", "content": text})
    body = {
        "model": model,
        "messages": messages,
        "strategy": {"type": strategy, **_parameters(parameters or ())},
        "verifier": _verifier(verifier),
        "budget": None if budget is None else {"max_tokens": budget},
        "n": n,
        "stream": True,
        "stream_options": {"include_usage": True, "include_progress": True},
    }
    given = {key: value for key, value in body.items() if value is not None}
    try:
        _show(_chunks(url.rstrip("/"), given, api_key), Run(messages))
    except _Refused as error:
        sys.stderr.write(f"forethought: {error}\n")
        raise typer.Exit(1) from error


def _parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE; a value that is not JSON is a string."""
    parameters = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--set")
        try:
            parameters[key] = json.loads(value)
        except ValueError:
            parameters[key] = value
    return parameters


def _verifier(text: str | None) -> Any:
    if text is None or not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not JSON: {error}", param_hint="--verifier"
        ) from error


def _show(chunks: Iterator[Mapping[str, Any]], run: Run) -> None:
    """Feed the run, and show it: live on a terminal, else line by line."""
    console = Console()
    if console.is_terminal:
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            for chunk in chunks:
                run.feed(chunk)
                live.update(view(run))
        console.print(view(run, finished=True))
    else:
        lines = Lines(run)
        for chunk in chunks:
            run.feed(chunk)
            for line in lines.new():
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
        sys.stdout.write(f"\n{answer_text(run)}\n\n{bill(run)}\n")


def _chunks(url: str, body: Mapping[str, Any], api_key: str | None) -> Iterator[Mapping[str, Any]]:
    """Give each chunk of the streamed reply. Raises _Refused."""
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        with (
            httpx.Client(timeout=_SILENCE, headers=headers) as client,
            client.stream("POST", f"{url}/v1/chat/completions", json=body) as response,
        ):
            if response.status_code != httpx.codes.OK:
                response.read()
                raise _Refused(_reason(response))
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    if "error" in chunk:
                        raise _Refused(_sentence(chunk["error"]))
                    yield chunk
    except httpx.ConnectError as error:
        raise _Refused(f"nothing answers at {url}; start it with `forethought serve`") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _Refused(f"{url}: {str(error) or type(error).__name__}") from error


def _reason(response: httpx.Response) -> str:
    try:
        return _sentence(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answered {response.status_code}, not as Forethought does"


def _sentence(error: Mapping[str, Any]) -> str:
    param = error.get("param")
    return f"{param}: {error['message']}" if param else str(error["message"])
