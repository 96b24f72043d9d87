"""SPECIFICATION.md: every promise names tests, and every named test exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def _rows() -> list[str]:
    """Return the rows of all tables of promises, without their heads."""
    lines = (ROOT / "SPECIFICATION.md").read_text().splitlines()
    return [line for line in lines if line.startswith("| ") and not line.startswith("| promise")]


def test_named_tests_exist() -> None:
    named = REFERENCE.findall((ROOT / "SPECIFICATION.md").read_text())
    assert len(named) >= 40
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / file).is_file()
        or not re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_every_promise_names_a_test() -> None:
    rows = _rows()
    assert rows
    assert [row for row in rows if not REFERENCE.search(row)] == []


def test_no_promise_is_stated_twice() -> None:
    promises = [row.split("|")[1].strip() for row in _rows()]
    assert len(promises) == len(set(promises))
