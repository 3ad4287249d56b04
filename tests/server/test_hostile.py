"""Hostile requests: each is a 4xx in under a second with an error object, and costs no work."""

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.local import QUESTION, Local, error_of, local

Answer = TypeVar("Answer")

PATIENCE_S = 1.0
CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
MESSAGES = json.dumps(QUESTION).encode()
MIB = 1 << 20


def chat(field: bytes) -> bytes:
    """Return a chat request with one more field."""
    return b'{"messages": ' + MESSAGES + b", " + field + b"}"


def deep(opening: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + b"1" + closing * depth


def many(piece: str, size: int) -> bytes:
    """Return a JSON array of the piece, of about `size` bytes."""
    return b"[" + b",".join([piece.encode()] * (size // (len(piece) + 1))) + b"]"


def keys(count: int, last: str | None = None) -> bytes:
    """Return an object of many keys, of which one may come twice."""
    names = [f'"{number:x}":0' for number in range(count)]
    return ("{" + ",".join([*names, *([f'"{last}":0'] if last else [])]) + "}").encode()


def tool(schema: Any) -> bytes:
    function = {"name": "f", "parameters": schema}
    return chat(b'"tools": ' + json.dumps([{"type": "function", "function": function}]).encode())


def form(schema: Any) -> bytes:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return chat(b'"response_format": ' + json.dumps(asked).encode())


def nested_schema(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


SELF = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}

BODIES: dict[str, bytes] = {
    "nothing": b"",
    "NUL": b"\0",
    "NULs": b"\0" * MIB,
    "NUL in JSON": b'{"messages"\0: []}',
    "raw NUL in a string": b'{"model": "a\0b", "messages": ' + MESSAGES + b"}",
    "deep arrays": b"[" * 3 * MIB,
    "deep objects": b'{"a":' * 500_000,
    "deep metadata": chat(b'"metadata": ' + deep(b'{"a":', b"}", 100_000)),
    "deep content": b'{"messages": ' + deep(b"[", b"]", 900) + b"}",
    "deep strategy": chat(b'"strategy": ' + deep(b'{"type":"cascade","first":', b"}", 180)),
    "1e999": chat(b'"temperature": 1e999'),
    "1e999 where anything goes": chat(b'"metadata": {"a": 1e999}'),
    "1e999 in a tool": chat(
        b'"tools":[{"type":"function","function":{"name":"f","parameters":{"maximum":1e999}}}]'
    ),
    "1e308": chat(b'"temperature": 1e308'),
    "1e308 tokens": chat(b'"max_tokens": 1e308'),
    "1e308 seconds": chat(b'"budget": {"deadline_s": 1e308}'),
    "-1e308": chat(b'"presence_penalty": -1e308'),
    "a huge integer": chat(b'"max_tokens": ' + b"9" * 4000),
    "a longer integer": chat(b'"seed": ' + b"9" * MIB),
    "a huge integer where anything goes": chat(b'"metadata": {"a": ' + b"9" * MIB + b"}"),
    "a huge exponent": chat(b'"temperature": 1e' + b"9" * MIB),
    "a huge fraction": chat(b'"top_p": 1.' + b"9" * MIB),
    "huge tokens of a strategy": chat(
        b'"strategy": {"type": "best_of_n", "n": ' + b"9" * 400 + b"}"
    ),
    "negative": chat(b'"max_tokens": -1'),
    "negative zero": chat(b'"n": -0'),
    "NaN": chat(b'"temperature": NaN'),
    "-Infinity": chat(b'"top_p": -Infinity'),
    "NaN in the strategy": chat(b'"strategy": {"type": "best_of_n", "temperature": NaN}'),
    "true for a number": chat(b'"n": true'),
    "lone surrogate": chat(b'"user": "\\ud800"'),
    "lone surrogate as a key": chat(b'"metadata": {"\\udfff": 1}'),
    "surrogates the wrong way round": chat(b'"user": "\\udc00\\ud800"'),
    "surrogates in UTF-8": chat(b'"user": "\xed\xa0\x80"'),
    "overlong UTF-8": chat(b'"user": "\xc0\xaf"'),
    "UTF-16": chat(b'"user": "x"').decode().encode("utf-16"),
    "UTF-32": chat(b'"user": "x"').decode().encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf" + chat(b'"user": "x"'),
    "10 MB string": chat(b'"user": "' + b"x" * (10 * MIB) + b'"'),
    "a prompt of 3 MB": json.dumps(
        {"messages": [{"role": "user", "content": "word " * (3 * MIB // 5)}]}
    ).encode(),
    "a name of 3 MB": chat(b'"model": "' + b"x" * (3 * MIB) + b'"'),
    "a strategy of 3 MB": chat(b'"strategy": "' + b"x" * (3 * MIB) + b'"'),
    "a field of 3 MB": chat(b'"' + b"x" * (3 * MIB) + b'": 1'),
    "duplicate keys": chat(b'"n": 1, "n": 2'),
    "duplicate messages": b'{"messages": ' + MESSAGES + b', "messages": ' + MESSAGES + b"}",
    "a duplicate among many": chat(b'"metadata": ' + keys(300_000, last="2710")),
    "many duplicates": b"{" + b",".join([b'"a":0'] * 600_000) + b"}",
    "many keys": keys(300_000),
    "many unknown fields": chat(keys(4000)[1:-1]),
    "many parameters": chat(b'"strategy": ' + keys(300_000)),
    "many biases": chat(b'"logit_bias": ' + keys(300_000)),
    "many wrong messages": b'{"messages": ' + many("0", 3 * MIB) + b"}",
    "many empty messages": b'{"messages": ' + many("{}", 3 * MIB) + b"}",
    "many messages": b'{"messages": ' + many(json.dumps(QUESTION[0]), 3 * MIB) + b"}",
    "many parts": b'{"messages": [{"role": "user", "content": ' + many("1", 3 * MIB) + b"}]}",
    "many stops": chat(b'"stop": ' + many('"x"', 3 * MIB)),
    "many wrong stops": chat(b'"stop": ' + many("0", 3 * MIB)),
    "many tokens": chat(b'"stop_token_ids": ' + many("-1", 3 * MIB)),
    "many tools": chat(b'"tools": ' + many("0", 3 * MIB)),
    "many includes": chat(b'"include": ' + many("0", 3 * MIB)),
    "unknown union": chat(b'"response_format": {"type": "yaml"}'),
    "no tag": chat(b'"response_format": {}'),
    "a tag that is no string": chat(b'"response_format": {"type": {"a": 1}}'),
    "a role of 3 MB": b'{"messages": [{"role": "' + b"x" * (3 * MIB) + b'"}]}',
    "an unknown part": b'{"messages": [{"role": "user", "content": [{"type": "virus"}]}]}',
    "a foreign URL": b'{"messages": [{"role": "user", "content": [{"type": "image_url", '
    b'"image_url": {"url": "http://169.254.169.254/latest/meta-data"}}]}]}',
    "a file": b'{"messages": [{"role": "user", "content": [{"type": "image_url", '
    b'"image_url": {"url": "file:///etc/passwd"}}]}]}',
    "a deep tool": tool(nested_schema(90)),
    "a tool that is itself": tool(SELF),
    "a catastrophic tool": tool({"pattern": "((a{1,999}){1,999}){1,999}"}),
    "a long pattern": tool({"properties": {"x": {"pattern": "(a|aa)+" * 10_000}}}),
    "a wide tool": tool({"enum": list(range(300_000))}),
    "a deep schema": form(nested_schema(80)),
    "a schema that is itself": form({"$ref": "#"}),
    "a catastrophic schema": form({"patternProperties": {"(x{9999}){9999}": {}}}),
    "endless items": form({"type": "array", "minItems": 10**18}),
    "a catastrophic form": chat(
        b'"response_format": {"type": "regex", "regex": "(((a{1,999}){1,999}){1,999})+"}'
    ),
    "a template": chat(b'"chat_template": "{% for x in range(10**9) %}x{% endfor %}"'),
    "a template's arguments": chat(b'"chat_template_kwargs": {"tokenizer_kwargs": {"x": 1}}'),
    "more than one value": chat(b'"user": "x"') * 2,
    "a comment": chat(b'"user": "x" /* hello */'),
    "a list": b"[" + chat(b'"user": "x"') + b"]",
    "a string": json.dumps(chat(b'"user": "x"').decode()).encode(),
    "cut off": chat(b'"user": "x"')[:-1],
}


def quickly(send: Callable[[], Answer]) -> Answer:
    """Do what must not take a second: of this process, as others of the machine may be busy."""
    began, worked = time.monotonic(), time.process_time()
    answer = send()
    assert time.process_time() - worked < PATIENCE_S
    assert time.monotonic() - began < 10 * PATIENCE_S
    return answer


def posted(server: Local, path: str, body: bytes, headers: dict[str, str] = JSON) -> httpx.Response:
    return quickly(lambda: server.http.post(path, content=body, headers=headers))


@pytest.mark.parametrize("what", BODIES)
def test_bodies(server: Local, what: str) -> None:
    before = server.engine.log.copy()
    response = posted(server, CHAT, BODIES[what])
    assert 400 <= response.status_code < 500, response.text[:500]
    told = error_of(response)
    assert told["type"] == "invalid_request_error"
    assert len(response.content) < 10_000, "a client's own words are not sent back at length"
    assert server.engine.log == before


@pytest.mark.parametrize(
    "path", ["verify", "rerank", "score", "replay", "best_of_n/chat/completions", "completions"]
)
def test_bodies_of_other_routes(server: Local, path: str) -> None:
    kinds = ("deep", "many", "NUL", "1e")
    lists = ("candidates", "documents", "text_1", "text_2", "messages", "k")
    bodies = [body for what, body in BODIES.items() if what.startswith(kinds)]
    for name in lists:
        for piece in ("0", "{}", '"x"'):
            bodies.append(f'{{"{name}": {many(piece, 3 * MIB).decode()}}}'.encode())
    for body in bodies:
        response = posted(server, f"/v1/{path}", body)
        assert 400 <= response.status_code < 500, body[:100]
        error_of(response)


def test_harmless_oddities_are_served(server: Local) -> None:
    """What looks like the above, and is not."""
    tree = {"$defs": {"t": {"properties": {"l": {"$ref": "#/$defs/t"}}}}, "$ref": "#/$defs/t"}
    for body in (
        chat(b'"user": "\\u0000"'),
        chat(b'"user": "\\ud83d\\ude00"'),
        chat(b'"metadata": {"a": 1e308, "b": -0.0, "c": 5e-324}'),
        chat(b'"metadata": ' + deep(b"[", b"]", 100).replace(b"[", b'{"a":').replace(b"]", b"}")),
        tool(tree),
        tool({"type": "object", "properties": {"x": {"pattern": "(a+)+$"}}}),
    ):
        response = posted(server, CHAT, body)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "application/jsonx"}, 415),
        ({"content-type": ""}, 415),
        ({"content-type": "application/json; charset=utf-16"}, 200),
        ({**JSON, "content-encoding": "identity"}, 200),
        ({**JSON, "content-encoding": "gzip"}, 415),
        ({**JSON, "content-encoding": "br"}, 415),
        ({**JSON, "content-encoding": "gzip, gzip, gzip"}, 415),
    ],
)
def test_types_and_encodings(server: Local, headers: dict[str, str], status: int) -> None:
    content = chat(b'"user": "x"')
    if status == 415 and "gzip" in headers.get("content-encoding", ""):
        content = gzip.compress(b" " * (64 * MIB))  # 64 MiB in 64 KiB
    response = posted(server, CHAT, content, headers)
    assert response.status_code == status
    if status == 415:
        error_of(response)


@contextmanager
def raw(server: Local) -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Read an error answer to its end."""
    received = b""
    while piece := connection.recv(1 << 16):
        received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        if body and body.endswith(b"}"):
            break
    assert b"application/json" in head
    return int(received.split()[1]), json.loads(body)["error"]


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

HEADS: dict[str, tuple[bytes, int]] = {
    "10,000 headers": (GET + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n", 431),
    "10,000 headers without an end": (GET + b"X: y\r\n" * 10_000, 431),
    "a long header": (GET + b"X: " + b"y" * 300_000, 431),
    "a long name": (GET + b"x" * 300_000, 431),
    "a long path": (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "a long path without an end": (b"GET /" + b"x" * 300_000, 414),
    "a long query": (b"GET /healthz?" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, 400),
    "NUL in a header": (GET + b"X: a\0b\r\n\r\n", 400),
    "a line feed in a header": (GET + b"X\n: a\r\n\r\n", 400),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "a huge length": (POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400),
    "length and chunks": (
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "a bad chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a long length": (POST + b"Content-Length: 99999999999\r\n\r\n{", 413),
    "an unknown method": (b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a method that is not served": (b"DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "a path upwards": (b"GET /v1/models/../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "a coded path upwards": (b"GET /v1/traces/..%2f..%2fpasswd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "NUL in a path": (b"GET /v1/models/%00 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "bytes in a path": (b"GET /v1/models/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "raw bytes in a path": (b"GET /v1/models/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
}


@pytest.mark.parametrize("what", HEADS)
def test_heads(server: Local, what: str) -> None:
    sent, status = HEADS[what]

    def send() -> tuple[int, dict[str, Any]]:
        with raw(server) as connection:
            connection.sendall(sent)
            return answer(connection)

    got, error = quickly(send)
    assert got == status
    assert error["type"] == "invalid_request_error"


@pytest.fixture(scope="module")
def hurried() -> Iterator[Local]:
    """A server without patience."""
    with local(limits={"head_s": 0.5, "body_s": 0.5}) as served:
        yield served


def dribble(connection: socket.socket, first: bytes, then: bytes) -> float:
    """Send a byte now and then until the server has enough; return the seconds."""
    began = time.monotonic()
    connection.sendall(first)
    connection.settimeout(0.05)
    while time.monotonic() - began < 5:
        try:
            connection.sendall(then)
            if connection.recv(1, socket.MSG_PEEK) is not None:
                break
        except TimeoutError:
            continue
    connection.settimeout(10)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (GET, b"X: y\r\n"),
        (GET + b"X: ", b"y"),
        (b"GET /", b"x"),
        (POST + b"Content-Length: 1000\r\n\r\n", b" "),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
)
def test_slow_clients_are_let_go(hurried: Local, first: bytes, then: bytes) -> None:
    with raw(hurried) as connection:
        assert 0.4 < dribble(connection, first, then) < 2
        assert answer(connection)[0] == 408


@pytest.mark.parametrize("sent", [b"", b"\r\n" * 20])
def test_silent_clients_are_let_go(hurried: Local, sent: bytes) -> None:
    with raw(hurried) as connection:
        began = time.monotonic()
        connection.sendall(sent)
        assert connection.recv(1) == b"" or sent
        assert 0.4 < time.monotonic() - began < 2


def test_blank_lines_between_requests_hold_no_connection(hurried: Local) -> None:
    with raw(hurried) as connection:
        connection.sendall(GET + b"\r\n")
        received = b""
        while not received.endswith(b"ok\n"):
            received += connection.recv(4096)
        assert 0.4 < dribble(connection, b"\r\n", b"\r\n") < 2


def test_a_slow_client_that_goes_on_is_served(hurried: Local) -> None:
    """Half a second for the head, half for the body, and more for what comes."""
    body = chat(b'"user": "' + b"x" * 20_000 + b'"')
    with raw(hurried) as connection:
        connection.sendall(POST)
        time.sleep(0.3)
        connection.sendall(b"Content-Length: %d\r\n\r\n" % len(body))
        for place in range(0, len(body), 5_000):
            time.sleep(0.3)
            connection.sendall(body[place : place + 5_000])
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_what_comes_after_a_refusal_is_not_waited_for_for_ever(server: Local) -> None:
    with raw(server) as connection:
        connection.sendall(POST + b"Content-Length: 99999999\r\n\r\n")
        assert answer(connection)[0] == 413
        began = time.monotonic()
        connection.settimeout(0.2)
        closed = False
        while not closed and time.monotonic() - began < 8:
            try:
                connection.sendall(b" " * 100)
                closed = connection.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
        assert closed
        assert 4 < time.monotonic() - began < 8


def test_truncated_bodies_are_forgotten(server: Local) -> None:
    for length in (0, 1, 100):
        with raw(server) as connection:
            connection.sendall(POST + b"Content-Length: 1000\r\n\r\n" + b"{" * length)
    assert quickly(server.post).status_code == 200
    server.wait_until(lambda: server.state.service.admission.running == 0)


def test_hundreds_of_idle_connections_disturb_nobody(server: Local) -> None:
    address = urlsplit(server.url)
    held = [socket.create_connection((address.hostname, address.port)) for _ in range(300)]
    try:
        for each in held:
            each.sendall(POST + b"Content-Length: 1000\r\n\r\n{")
        assert quickly(server.post).status_code == 200
    finally:
        for each in held:
            each.close()
