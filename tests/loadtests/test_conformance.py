"""The server does what its OpenAPI document says; the document says all there is."""

from collections.abc import Iterator
from typing import Any

import pytest

from loadtests.conformance import METHODS, ask, scripted_server
from tests.server.local import Local, local

CASES, SEED = 150, 1


@pytest.mark.slow
def test_a_short_run() -> None:
    with scripted_server() as url:
        report = ask(url, CASES, SEED, phases=("examples", "fuzzing"))
    assert report.passed, report.text
    assert report.cases >= CASES


@pytest.fixture(scope="module")
def document() -> Iterator[dict[str, Any]]:
    with local() as server:
        yield document_of(server)


def document_of(server: Local) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get("/openapi.json").json()
    return found


def properties(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Give every property of a schema and of those inside of it."""
    if isinstance(node, dict):
        for name, each in node.get("properties", {}).items():
            yield f"{place}.{name}", each
        for name, each in node.items():
            yield from properties(each, f"{place}.{name}")
    elif isinstance(node, list):
        for index, each in enumerate(node):
            yield from properties(each, f"{place}.{index}")


def test_every_field_is_documented(document: dict[str, Any]) -> None:
    tags = {"type", "role", "object", "op"}
    silent = [
        place
        for place, each in properties(document["components"]["schemas"])
        if isinstance(each, dict)
        and not each.get("description")
        and place.rpartition(".")[2] not in tags
        and "$ref" not in each
    ]
    assert not silent


def test_every_operation_declares_its_answers_errors_and_parameters(
    document: dict[str, Any],
) -> None:
    error = {"$ref": "#/components/schemas/ErrorAnswer"}
    for path, operations in document["paths"].items():
        for method in operations.keys() & set(METHODS):
            operation, place = operations[method], f"{method} {path}"
            answers = operation["responses"]
            assert answers.keys() >= {"4XX", "5XX"}, place
            for status in ("4XX", "5XX"):
                assert answers[status]["content"]["application/json"]["schema"] == error
            good = [each for status, each in answers.items() if status.startswith("2")]
            assert good, place
            for content in good[0]["content"].values():
                assert content["schema"], f"{place} does not say what it answers"
            named = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}, place
            assert operation["summary"], place
    ids = [each["operationId"] for each in _operations(document)]
    assert len(set(ids)) == len(ids)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for operations in document["paths"].values():
        yield from operations.values()


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for each in node.values():
            yield from _references(each)
    elif isinstance(node, list):
        for each in node:
            yield from _references(each)
