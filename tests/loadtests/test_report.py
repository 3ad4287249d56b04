"""The page that results are written to."""

from __future__ import annotations

from pathlib import Path

from loadtests.report import table, write_section


def test_a_section_replaces_itself_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- one -->\nold\n<!-- /one -->\n\nkept\n")
    write_section("one", table(["a", "b"], [["1", "2"]]), page)
    write_section("two", "new", page)
    assert page.read_text() == (
        "# Page\n\n<!-- one -->\n| a | b |\n| --- | --- |\n| 1 | 2 |\n<!-- /one -->\n\nkept\n"
        "\n<!-- two -->\nnew\n<!-- /two -->\n"
    )
