"""Writes measured tables between their markers in the documents of this repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[1]
PERFORMANCE: Final = _ROOT / "docs" / "performance.md"
"""Document with all tables."""
README: Final = _ROOT / "README.md"
"""Document with the short comparison table."""


class MissingMarker(Exception):
    """No document has both markers of a table."""


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents that show measured tables.

    A table stands between the lines `<!-- measured NAME: begin ... -->` and `<!-- measured NAME: end -->`. It
    is written into every document that has these markers.

    Args:
        performance: Gets every table in full.
        readme: Gets the short form of a table, where the table has one.
    """

    performance: Path = PERFORMANCE
    readme: Path = README

    def check(self, name: str) -> None:
        """Check that a table has a place, before a long measurement.

        Args:
            name: Of the table.

        Raises:
            MissingMarker: No document has both markers.
        """
        if not any(_has_markers(path, name) for path in (self.performance, self.readme)):
            files = f"{self.performance.name} and {self.readme.name}"
            raise MissingMarker(f"{files} lack the markers {_begin(name)} and {_end(name)}")

    def write(self, name: str, full: str, short: str = "") -> None:
        """Replace a table in every document that has its markers.

        Args:
            name: Of the table.
            full: Text for the performance document, ending in a newline.
            short: Text for the README, ending in a newline; empty if the README shows the full text.

        Raises:
            MissingMarker: No document has both markers.
        """
        self.check(name)
        for path, text in ((self.performance, full), (self.readme, short or full)):
            if _has_markers(path, name):
                path.write_text(_replaced(path.read_text(), name, text))


def _begin(name: str) -> str:
    return f"<!-- measured {name}: begin (make bench writes this) -->"


def _end(name: str) -> str:
    return f"<!-- measured {name}: end -->"


def _between(name: str) -> re.Pattern[str]:
    """Pattern of the begin marker with its line's end, the table, and the end marker."""
    begin = rf"<!-- measured {re.escape(name)}: begin[^\n]*-->[^\n]*\n"
    return re.compile(rf"({begin})(.*?)({re.escape(_end(name))})", re.DOTALL)


def _has_markers(path: Path, name: str) -> bool:
    return path.exists() and _between(name).search(path.read_text()) is not None


def _replaced(document: str, name: str, text: str) -> str:
    # A function, since a replacement string would interpret the backslashes in the text.
    return _between(name).sub(lambda found: f"{found[1]}{text}{found[3]}", document, count=1)
