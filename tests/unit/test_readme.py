"""README.md: short enough to be read, and every link of the documents leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
MAX_WORDS = 900
MAX_COMPARISON_ROWS = 6
MEASURED = re.compile(r"<!-- measured (\w+): begin[^\n]*-->\n(.*?)<!-- measured \1: end -->", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def test_readme_has_at_most_900_words_outside_measured_tables() -> None:
    text = MEASURED.sub("", README.read_text())
    assert len(text.split()) <= MAX_WORDS


def test_readme_has_one_measured_table_of_at_most_six_rows() -> None:
    tables = MEASURED.findall(README.read_text())
    assert [name for name, _ in tables] == ["viewers"]
    rows = [line for line in tables[0][1].splitlines() if line.startswith("|")]
    # Two lines are the head of the table.
    assert 1 <= len(rows) - 2 <= MAX_COMPARISON_ROWS


def test_readme_shows_the_two_commands_near_the_top() -> None:
    blocks = re.findall(r"^```\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    commands = [line.split()[:2] for line in blocks[0].splitlines()]
    assert commands == [["make", "demo"], ["make", "test"]]


def test_performance_page_has_every_measured_table() -> None:
    names = {name for name, _ in MEASURED.findall((ROOT / "docs" / "performance.md").read_text())}
    assert names == {"viewers", "idle", "held", "policies", "costs", "video", "trackers"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(document: Path) -> None:
    links = [link.partition("#")[0] for link in LINK.findall(document.read_text())]
    relative = [link for link in links if link and "://" not in link]
    assert [link for link in relative if not (document.parent / link).exists()] == []
