import pytest
from pydantic import ValidationError

from server.models.catalogue import CatalogueEntry, read_catalogue

CATALOGUE = read_catalogue()


def test_the_default_is_in_the_catalogue():
    entry = CATALOGUE.find(CATALOGUE.default)
    assert entry is not None
    assert entry.hub_id == "Qwen/Qwen2.5-Coder-0.5B-Instruct"


@pytest.mark.parametrize("entry", CATALOGUE.entries, ids=lambda entry: entry.name)
def test_every_entry_is_found_by_name_and_hub_id_in_any_case(entry: CatalogueEntry):
    for name in (entry.name, entry.hub_id, entry.name.upper(), entry.hub_id.lower()):
        assert CATALOGUE.find(name) is entry


@pytest.mark.parametrize("entry", CATALOGUE.entries, ids=lambda entry: entry.name)
def test_parts_have_names_of_their_own(entry: CatalogueEntry):
    numbers = range(1, entry.mirror.parts + 1)
    assert len({entry.mirror.requirement(n) for n in numbers}) == entry.mirror.parts
    assert len({entry.mirror.member_name(n) for n in numbers}) == entry.mirror.parts


@pytest.mark.parametrize("entry", CATALOGUE.entries, ids=lambda entry: entry.name)
def test_models_end_their_replies(entry: CatalogueEntry):
    assert "eos_token_id" in entry.generation_config


def test_unknown_names_are_not_found():
    assert CATALOGUE.find("smollm2") is None
    assert CATALOGUE.find("") is None


def test_a_misspelt_field_is_an_error():
    fields = CATALOGUE.entries[0].model_dump()
    with pytest.raises(ValidationError, match="license"):
        CatalogueEntry.model_validate(fields | {"license": "MIT"})
