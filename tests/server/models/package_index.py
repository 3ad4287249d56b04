"""A small package index over HTTP that counts, stalls and serves real wheels."""

import base64
import hashlib
import io
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def make_wheel(project: str, version: str, member: str, content: bytes) -> tuple[str, bytes]:
    """Build a wheel that carries one data file: its file name and bytes."""
    name = project.replace("-", "_")
    files = {
        member: content,
        f"{name}-{version}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n".encode()
        ),
        f"{name}-{version}.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = ""
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    files[f"{name}-{version}.dist-info/RECORD"] = record.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return f"{name}-{version}-py3-none-any.whl", buffer.getvalue()


class PackageIndex:
    """Wheels by file name. `stalled` holds the file names of which half is sent, then nothing."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.wheels: dict[str, bytes] = {}
        self.stalled: set[str] = set()
        self.downloads: Counter[str] = Counter()
        """Downloads begun, by wheel."""
        self.stalling = threading.Event()
        """A download has come to its half."""

    def add(self, project: str, version: str, member: str, content: bytes) -> str:
        file_name, wheel = make_wheel(project, version, member, content)
        self.wheels[file_name] = wheel
        return file_name

    def page(self, project: str) -> bytes:
        prefix = project.replace("-", "_") + "-"
        names = [name for name in self.wheels if name.startswith(prefix)]
        return "".join(f'<a href="/files/{name}">{name}</a>\n' for name in names).encode()


@contextmanager
def serve_index() -> Iterator[PackageIndex]:
    """Serve an empty index on a free port; `wheels` may be added while it runs."""
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, name = self.path.strip("/").split("/")
            body = index.page(name) if kind == "simple" else index.wheels[name]
            self.send_response(200 if body else 404)
            self.send_header(
                "content-type", "text/html" if kind == "simple" else "application/octet-stream"
            )
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if kind == "files":
                index.downloads[name] += 1
            if name in index.stalled:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                index.stalling.set()
                closing.wait()
            else:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    index = PackageIndex(f"http://127.0.0.1:{server.server_port}/simple")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield index
    finally:
        closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
