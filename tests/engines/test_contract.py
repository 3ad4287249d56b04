"""One contract for all engines (`contract.py`), held against each of them (`conftest.py`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.engines.contract import CONTRACT, Subject


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
async def test_contract(subject: Subject, promise: Callable[[Subject], Awaitable[None]]) -> None:
    await promise(subject)
