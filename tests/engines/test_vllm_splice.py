"""Where a reply's ids go in a rendered prompt; the real templates are in `test_vllm_scoring`."""

from __future__ import annotations

import pytest

from server.engines.vllm_splice import last_spliced, stand_in, text_after, without_end
from verifiers.errors import BadRequest
from verifiers.types import TOKEN_IDS

SAID = {"role": "assistant", "content": "Yes.", TOKEN_IDS: (5, 6)}
ASKED = {"role": "user", "content": "Sure?"}


def test_the_last_reply_with_ids_is_found() -> None:
    assert last_spliced([ASKED, SAID, ASKED, SAID, ASKED]) == 3
    assert last_spliced([ASKED, {**SAID, TOKEN_IDS: ()}]) is None


def test_what_follows_a_stand_in_is_found() -> None:
    message = stand_in(SAID)
    content = message["content"]
    assert message["role"] == "assistant"
    assert content != stand_in(SAID)["content"]  # nobody can foresee it
    assert text_after(content, f"<user>Sure?<assistant>{content}<end>") == "<end>"


@pytest.mark.parametrize("shown", ["", "{0} and {0}"])
def test_a_template_that_hides_or_repeats_the_turn_is_refused(shown: str) -> None:
    content = stand_in(SAID)["content"]
    with pytest.raises(BadRequest, match="template"):
        text_after(content, f"<assistant>{shown.format(content)}<end>")


def test_the_end_of_a_reply_is_left_to_the_template() -> None:
    assert without_end((5, 6, 2), (2, 0)) == (5, 6)
    assert without_end((5, 6), (2, 0)) == (5, 6)
