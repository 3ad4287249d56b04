"""Input files of batches: every line is found, and what is wrong is told by line and field."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.batches.endpoints import belongs, endpoint_of
from server.batches.input import InputCheck, Raw, raw_lines
from server.engines.scripted import ScriptedEngine
from server.settings import Settings
from server.state import State
from tests.server.local import make_state

CHAT = "/v1/chat/completions"


@pytest.fixture
def state() -> State:
    limits = {"body_bytes": 2000}
    return make_state(
        ScriptedEngine(),
        Settings(engine="scripted", batches={"max_lines": 4}, limits=limits),
    )


def line(**fields: Any) -> bytes:
    whole = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m"}}
    return json.dumps(whole | fields).encode()


async def in_pieces(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def errors(state: State, *lines: bytes) -> list[tuple[str, int | None, str | None]]:
    check = InputCheck(CHAT, state)
    await check.read(in_pieces([b"\n".join(lines)]))
    return [(each.code, each.line, each.param) for each in check.errors]


@given(st.lists(st.sampled_from([b"", b" ", b"a", b"bc", b"def\r"]), max_size=8), st.integers(1, 5))
async def test_lines_are_found_however_the_file_is_cut(lines: list[bytes], size: int) -> None:
    content = b"\n".join(lines)
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    found = [each async for each in raw_lines(in_pieces(pieces), most=100)]
    assert found == [Raw(at, each) for at, each in enumerate(lines, 1) if each.strip()]


async def test_of_an_endless_line_only_a_part_is_read() -> None:
    read = []

    async def endless() -> AsyncIterator[bytes]:
        for number in range(1000):
            read.append(number)
            yield b"x" * 10

    [found] = [each async for each in raw_lines(endless(), most=25)]
    assert (found.number, len(found.content), len(read)) == (1, 30, 3)


async def test_good_lines_are_counted_with_their_model(state: State) -> None:
    check = InputCheck(CHAT, state)
    bom = b"\xef\xbb\xbf"
    rows = [bom + line() + b"\r", b"", line(custom_id="b", url="/v1/best_of_n/chat/completions")]
    await check.read(in_pieces([b"\n".join(rows) + b"\n"]))
    assert (check.errors, check.count, check.model) == ([], 2, "m")
    other = InputCheck(CHAT, state)
    await other.read(in_pieces([line() + b"\n" + line(custom_id="b", body={})]))
    assert (other.errors, other.model) == ([], None)


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b'{"custom_id": "\\ud800"}', "invalid_json_line", None),
        (line(custom_id=""), "invalid_custom_id", "custom_id"),
        (line(custom_id="x" * 513), "invalid_custom_id", "custom_id"),
        (line(custom_id=7), "invalid_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(custom_id="b", url="/v1/embeddings"), "mismatched_url", "url"),
        (line(custom_id="b", url="/v1/no_such/chat/completions"), "invalid_url", "url"),
        (line(body=[]), "invalid_body", "body"),
        (line(priority=1), "unknown_field", "priority"),
        (line(body={"x": "y" * 7000}), "line_too_long", None),
        (b'{"method": "POST"}', "invalid_custom_id", "custom_id"),
    ],
)
async def test_a_wrong_line_is_told_by_its_number_and_field(
    state: State, wrong: bytes, code: str, param: str | None
) -> None:
    assert await errors(state, line(), wrong) == [(code, 2, param)]


async def test_all_that_is_wrong_with_a_file_is_told(state: State) -> None:
    assert await errors(state, line(), b"{", line()) == [
        ("invalid_json_line", 2, None),
        ("duplicate_custom_id", 3, "custom_id"),
    ]
    assert await errors(state) == [("empty_file", None, None)]
    assert await errors(state, b" ", b"") == [("empty_file", None, None)]
    many = [line(custom_id=str(number)) for number in range(6)]
    assert await errors(state, *many[:4]) == []
    assert await errors(state, *many) == [("too_many_lines", 5, None)]


def test_endpoints(state: State) -> None:
    assert endpoint_of(CHAT, state) == (CHAT, None)
    assert endpoint_of("/v1/auto/chat/completions", state) == (CHAT, "auto")
    assert endpoint_of("/v1/none_such/chat/completions", state) is None
    assert endpoint_of("/v1/files", state) is None
    assert endpoint_of("/v1/best_of_n/responses", state) == ("/v1/responses", "best_of_n")
    assert endpoint_of("/v1/best_of_n/completions", state) is None
    assert belongs("/v1/single/chat/completions", CHAT)
    assert not belongs("/v1/single/responses", CHAT)
    assert not belongs(CHAT, "/v1/single/chat/completions")
