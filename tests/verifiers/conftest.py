"""What tests of verifiers share: the answer comparison, and a server that scores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.verifiers.hash_scorer import HashScorer, running_scorer
from tests.verifiers.tiny_classifier import save_tiny
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


@pytest.fixture(scope="session")
def value_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a value at each token, on disk; nobody writes into it."""
    from transformers import AutoModelForTokenClassification

    directory = save_tiny(tmp_path_factory.mktemp("value-head"), head=False)
    model = AutoModelForTokenClassification.from_pretrained(directory, num_labels=1)
    model.save_pretrained(directory)
    return directory
