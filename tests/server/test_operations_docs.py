"""All settings that docs/operations.md shows are settings."""

import re
import tomllib

import pytest

from server.settings import Settings
from tests.server.test_background_docs import TEXT

DOCUMENTS = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_settings(document: str) -> None:
    tree = tomllib.loads(document)
    assert Settings.model_validate(tree).model_fields_set == tree.keys()
