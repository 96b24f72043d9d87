"""The files the page is made of, read once: what was not there at the start cannot be asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

from vramtap.errors import NotFound

if TYPE_CHECKING:
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
"""By suffix. Ours and not the machine's: with `nosniff` a module of a wrong type does not run."""
MAX_ASSETS_BYTES: Final = 8 << 20
"""Of all files together; noVNC has 0.6 MB."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file.

    Args:
        body: Its bytes.
        content_type: Without charset.
        etag: Of the body, unquoted.
    """

    body: bytes
    content_type: str
    etag: str


def load_assets() -> dict[str, Asset]:
    """The package's static files by URL path: ours under `static/`, noVNC's under `novnc/`.

    Raises:
        NotFound: noVNC is not there: it is fetched when the package is built.
    """
    root = resources.files("vramtap.servers.web") / "static"
    novnc = root / "novnc"
    if not (novnc / "core" / "rfb.js").is_file():
        raise NotFound(
            "serve the page", str(novnc), "noVNC is not there", "it is fetched at build time: make install"
        )
    assets: dict[str, Asset] = {}
    for prefix, folder in (("static", root), ("novnc", novnc)):
        _collect(assets, prefix, folder)
    return assets


def _collect(assets: dict[str, Asset], prefix: str, folder: Traversable) -> None:
    for entry in sorted(folder.iterdir(), key=lambda found: found.name):
        path = f"{prefix}/{entry.name}"
        if path == "static/novnc" or entry.name.startswith("."):
            continue
        if entry.is_dir():
            _collect(assets, path, entry)
            continue
        dot = entry.name.rfind(".")
        suffix = entry.name[dot:] if dot > 0 else ""
        body = entry.read_bytes()
        if sum(len(asset.body) for asset in assets.values()) + len(body) > MAX_ASSETS_BYTES:
            raise NotFound(
                "serve the page", path, f"static files exceed {MAX_ASSETS_BYTES} bytes", "reinstall vramtap"
            )
        etag = hashlib.sha256(body).hexdigest()[:32]
        assets[path] = Asset(body, CONTENT_TYPES.get(suffix, "application/octet-stream"), etag)
