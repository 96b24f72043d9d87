"""SPECIFICATION.md: every test it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_promise_names_tests_that_exist() -> None:
    named = REFERENCE.findall((ROOT / "SPECIFICATION.md").read_text())
    assert len(named) >= 40
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / file).is_file()
        or not re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_every_row_of_promises_names_a_test() -> None:
    rows = [
        line
        for line in (ROOT / "SPECIFICATION.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| promise")
    ]
    assert rows
    assert [row for row in rows if not REFERENCE.search(row)] == []
