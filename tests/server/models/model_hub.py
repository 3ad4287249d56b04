"""A small model hub over HTTP: one model, the calls that a snapshot download makes."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


class ModelHub:
    """The hub's one model: its files, and the large-file checksums that it claims."""

    def __init__(self, url: str, hub_id: str) -> None:
        self.url = url
        self.hub_id = hub_id
        self.files: dict[str, bytes] = {}
        self.claims: dict[str, str] = {}
        """sha256 by file name, where it is not the true one."""
        self.requests: list[str] = []

    def checksum(self, name: str) -> str:
        return self.claims.get(name, hashlib.sha256(self.files[name]).hexdigest())

    def entry(self, name: str, key: str) -> dict[str, object]:
        size = len(self.files[name])
        entry: dict[str, object] = {key: name, "size": size, "oid": "0" * 40, "type": "file"}
        if name.endswith(".safetensors"):
            sha256 = self.checksum(name)
            entry["lfs"] = {"sha256": sha256, "oid": sha256, "size": size, "pointerSize": 1}
        return entry

    def answer(self, path: str) -> bytes | None:
        model = f"/api/models/{self.hub_id}"
        if path in (model, f"{model}/revision/{REVISION}"):
            siblings = [self.entry(name, "rfilename") for name in self.files]
            return json.dumps({"id": self.hub_id, "sha": REVISION, "siblings": siblings}).encode()
        if path == f"{model}/tree/{REVISION}":
            return json.dumps([self.entry(name, "path") for name in self.files]).encode()
        return self.files.get(path.removeprefix(f"/{self.hub_id}/resolve/{REVISION}/"))


@contextmanager
def serve_hub(hub_id: str) -> Iterator[ModelHub]:
    """Serve a hub with one model, still without files, on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.requests.append(path)
            body = hub.answer(path)
            self.send_response(404 if body is None else 200)
            self.send_header("content-length", str(len(body or b"")))
            self.send_header("x-repo-commit", REVISION)
            if body is not None:
                self.send_header("etag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = ModelHub(f"http://127.0.0.1:{server.server_port}", hub_id)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
