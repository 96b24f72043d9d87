"""Code blocks of Markdown documents."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


def code_blocks(document: str, language: str) -> list[str]:
    """Return the fenced code blocks of a document.

    Args:
        document: Path relative to the repository.
        language: As written after the opening fence.
    """
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
