"""Static files of the page, read once at start. The server answers requests for these files only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

from vramtap.errors import MissingAsset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

CONTENT_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".md": "text/plain",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    "": "text/plain",
}
"""Content type by file suffix. The machine's own table is not used: with `nosniff` a browser does not run a
module that has a wrong type."""
MAX_ASSETS_BYTES: Final = 8 << 20
"""Limit for all files together; noVNC has 0.6 MB."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One static file.

    Args:
        body: Content of the file.
        content_type: Content type without charset.
        etag: Hash of the content, unquoted.
    """

    body: bytes
    content_type: str
    etag: str


def load_assets() -> dict[str, Asset]:
    """Return the package's static files by URL path: vramtap's under `static/`, noVNC's under `novnc/`.

    Raises:
        MissingAsset: noVNC is missing (the build fetches it), or the files exceed the limit.
    """
    root = resources.files("vramtap.servers.web") / "static"
    novnc = root / "novnc"
    if not (novnc / "core" / "rfb.js").is_file():
        raise MissingAsset(
            "serve the page", str(novnc), "noVNC is missing", "run `make install`, which fetches noVNC"
        )
    assets: dict[str, Asset] = {}
    total_bytes = 0
    for path, entry in [*_files("static", root), *_files("novnc", novnc)]:
        body = entry.read_bytes()
        total_bytes += len(body)
        if total_bytes > MAX_ASSETS_BYTES:
            raise MissingAsset(
                "serve the page", path, f"static files exceed {MAX_ASSETS_BYTES} bytes", "reinstall vramtap"
            )
        dot = entry.name.rfind(".")
        suffix = entry.name[dot:] if dot > 0 else ""
        etag = hashlib.sha256(body).hexdigest()[:32]
        assets[path] = Asset(body, CONTENT_TYPES.get(suffix, "application/octet-stream"), etag)
    return assets


def _files(prefix: str, folder: Traversable) -> Iterator[tuple[str, Traversable]]:
    """Yield URL path and file of everything below a folder, sorted by name."""
    for entry in sorted(folder.iterdir(), key=lambda found: found.name):
        path = f"{prefix}/{entry.name}"
        if path == "static/novnc" or entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(path, entry)
        else:
            yield path, entry
