from collections.abc import Iterator

import pytest

from tests.server.local import Local, local


@pytest.fixture(scope="module")
def server() -> Iterator[Local]:
    """An instant scripted engine with default settings."""
    with local() as served:
        yield served
