"""An application served by a thread of its own, on a real socket of 127.0.0.1."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


@contextmanager
def threaded(app: Any, port: int = 0) -> Iterator[int]:
    """Serve until the block ends, on a free port unless one is given; yields the port."""
    config = uvicorn.Config(
        app, ws="none", log_level="critical", timeout_graceful_shutdown=1, lifespan="off"
    )
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
