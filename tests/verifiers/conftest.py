"""What tests of verifiers share: the answer comparison, and a server that scores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.verifiers.hash_scorer import HashScorer, running_scorer
from verifiers.equality import AnswerEquality


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def equivalence() -> AsyncIterator[AnswerEquality]:
    service = AnswerEquality()
    await service.start()
    yield service
    await service.aclose()


@pytest.fixture(scope="session")
def scorer() -> Iterator[HashScorer]:
    with running_scorer() as stub:
        yield stub
