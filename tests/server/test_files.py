"""`/v1/files` with the official client: what is uploaded is there, and no more than is allowed."""

import json
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import openai
import pytest
from openai import OpenAI

from server.batches.kept import File, Files
from server.errors import NotFound
from server.store.sqlite.store import SQLiteStore
from tests.server.local import Local, error_of, local

LIMIT = 3 << 20
LINE = b'{"custom_id": "a"}\n'


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    with local(files={"max_bytes": LIMIT}) as served:
        yield served


@pytest.fixture
def client(server: Local) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        for each in opened.files.list():
            opened.files.delete(each.id)
        yield opened


def upload(client: OpenAI, content: bytes = LINE, name: str = "input.jsonl") -> str:
    return client.files.create(file=(name, content), purpose="batch").id


def test_a_file_is_uploaded_told_of_read_and_deleted(client: OpenAI) -> None:
    before = int(time.time())
    made = client.files.create(file=("ünï.jsonl", LINE), purpose="batch")
    assert (made.filename, made.bytes, made.purpose) == ("ünï.jsonl", 19, "batch")
    assert (made.object, made.status) == ("file", "processed")
    assert before <= made.created_at <= before + 5
    assert made.expires_at == made.created_at + 30 * 86_400
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == LINE
    gone = client.files.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)


def test_a_large_file_comes_back_as_it_went(client: OpenAI) -> None:
    content = bytes(range(256)) * (LIMIT // 256)
    made = upload(client, content)
    assert client.files.retrieve(made).bytes == LIMIT
    assert client.files.content(made).read() == content


def test_one_byte_more_is_refused_however_it_is_sent(server: Local, client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        upload(client, b"x" * (LIMIT + 1))
    assert (refused.value.status_code, refused.value.param) == (413, "file")
    with pytest.raises(openai.APIStatusError) as refused:
        upload(client, b"x" * (2 * LIMIT))
    assert refused.value.status_code == 413
    sent = server.http.build_request(
        "POST", "/v1/files", data={"purpose": "batch"}, files={"file": ("f", b"x" * (2 * LIMIT))}
    )
    content = sent.read()
    pieces = (content[at : at + 65_536] for at in range(0, len(content), 65_536))
    chunked = server.http.post(
        "/v1/files", content=pieces, headers={"content-type": sent.headers["content-type"]}
    )
    assert chunked.status_code == 413
    assert [*client.files.list()] == []


def test_files_are_listed_in_both_orders_by_pages_and_purpose(client: OpenAI) -> None:
    made = [upload(client, name=f"{number}.jsonl") for number in range(5)]
    assert [each.id for each in client.files.list()] == made[::-1]
    assert [each.id for each in client.files.list(order="asc")] == made
    page = client.files.list(limit=2)
    assert ([each.id for each in page.data], page.has_more) == (made[:2:-1], True)
    assert [each.id for each in client.files.list(limit=2)] == made[::-1]  # by itself, page by page
    oldest = client.files.list(order="asc", after=made[2], limit=2)
    assert ([each.id for each in oldest.data], oldest.has_more) == (made[3:], False)
    assert [*client.files.list(purpose="batch_output")] == []
    assert client.files.list(after="file-unknown").data == []
    assert client.files.list(after="file-unknown", order="asc").data == []
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.list(limit=0)
    assert refused.value.param == "limit"


def test_a_file_may_be_kept_for_less_long(client: OpenAI) -> None:
    made = client.files.create(
        file=("a.jsonl", LINE),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert made.expires_at == made.created_at + 3600
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(
            file=("a.jsonl", LINE),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 60},
        )
    assert refused.value.param == "expires_after.seconds"


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({"purpose": "fine-tune"}, {"file": ("a", LINE)}, "purpose"),
        ({}, {"file": ("a", LINE)}, "purpose"),
        ({"purpose": "batch", "file": "text"}, {"other": ("a", LINE)}, "other"),
        ({"purpose": "batch", "shade": "blue"}, {"file": ("a", LINE)}, "shade"),
        ({"purpose": "batch"}, {"purpose": ("a", LINE)}, "purpose"),
    ],
)
def test_a_wrong_form_is_refused_by_its_field(
    server: Local, fields: dict[str, str], files: dict[str, tuple[str, bytes]], param: str
) -> None:
    answer = server.http.post("/v1/files", data=fields, files=files)
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"] == param


def test_a_form_without_a_file_is_refused(server: Local) -> None:
    content = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = server.http.post("/v1/files", content=content, headers=headers)
    assert (answer.status_code, error_of(answer)["param"]) == (400, "file")


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"no boundary at all", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: x\r\n\r\n", 400),
        ("multipart/form-data; boundary=b", b"", 400),
    ],
)
def test_what_is_no_form_is_refused(
    server: Local, content_type: str, content: bytes, status: int
) -> None:
    headers = {"content-type": content_type}
    answer = server.http.post("/v1/files", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    error_of(answer)


def test_a_client_that_hangs_up_leaves_nothing(server: Local, client: OpenAI) -> None:
    def torn() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhalf'
        raise ConnectionError

    with pytest.raises(ConnectionError), httpx.Client(base_url=server.url) as http:
        http.post(
            "/v1/files", content=torn(), headers={"content-type": "multipart/form-data; boundary=b"}
        )
    assert [*client.files.list()] == []


async def test_another_owners_file_is_not_there() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield LINE

    files = Files(SQLiteStore.in_memory())
    made = await files.write(
        "file-1", pieces(), filename="f", purpose="batch", owner="mine", keep_s=60
    )
    assert await files.owned("file-1", "mine") == made
    with pytest.raises(NotFound):
        await files.owned("file-1", "yours")
    assert [each async for each in files.listed("yours")] == []
    assert [each.id async for each in files.listed("mine")] == ["file-1"]
    assert json.loads(json.dumps(made.told())) == File.model_validate(made.told()).told()
