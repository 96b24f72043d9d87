"""PNG writer (RFC 2083). A file is written completely or not at all."""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from vramtap.display.pixels import to_rgb
from vramtap.errors import KernelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_BAND_BYTES: Final = 1 << 20
"""Bytes compressed at a time. Also the maximum size of an IDAT chunk."""
_FILTER_NONE: Final = 0
"""Filter type of every row: none. Screens are flat and repeat themselves. Deflate compresses their pixels
better than the differences that a filter makes."""


def write_png(
    destination: str | os.PathLike[str] | BinaryIO, pixels: NDArray[np.uint32], level: int = 6
) -> None:
    """Write a screen as an 8-bit RGB PNG.

    For a path, the image goes to a temporary file in the same directory, which is then renamed. A program
    that opens the path sees the old file or the complete new one. A symbolic link stays a link. A device or a
    pipe is written to directly, because a rename would replace it by a file.

    Args:
        destination: A path, or a file open for writing bytes.
        pixels: Shape `(height, width)`, `0x00RRGGBB`, at least one pixel.
        level: Deflate level, 0 to 9.

    Raises:
        ValueError: there are no pixels.
        KernelError: the path cannot be written.
    """
    if pixels.ndim != 2 or not pixels.size:
        raise ValueError(f"no image in pixels of shape {pixels.shape}")
    if not isinstance(destination, (str, os.PathLike)):
        _write(destination, pixels, level)
        return
    path = Path(destination)
    try:
        if path.exists() and not path.is_file():
            with open(path, "wb", opener=_open_device) as file:
                _write(file, pixels, level)
        else:
            _replace(Path(os.path.realpath(path)), pixels, level)
    except OSError as error:
        raise KernelError(
            "write",
            str(path),
            error.errno or 0,
            "check that the directory exists, its permissions and its free space",
        ) from error


def _open_device(path: str, flags: int) -> int:
    """Open a device or a pipe. A pipe without a reader raises OSError instead of waiting (fifo(7): ENXIO)."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    return descriptor


def _replace(path: Path, pixels: NDArray[np.uint32], level: int) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            _write(file, pixels, level)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write(file: BinaryIO, pixels: NDArray[np.uint32], level: int) -> None:
    height, width = pixels.shape
    file.write(_SIGNATURE)
    # RFC 2083, 4.1.1: 8 bits a sample, colour type 2 (RGB), deflate, adaptive filters, not interlaced.
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    deflate = zlib.compressobj(level)
    rows = max(1, _BAND_BYTES // (3 * width))
    for top in range(0, height, rows):
        rgb = to_rgb(pixels[top : top + rows]).reshape(-1, 3 * width)
        lines = np.full((len(rgb), 1 + 3 * width), _FILTER_NONE, dtype=np.uint8)
        lines[:, 1:] = rgb
        _chunk(file, b"IDAT", deflate.compress(lines.data))
    _chunk(file, b"IDAT", deflate.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
    )
