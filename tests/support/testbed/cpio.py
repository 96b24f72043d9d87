"""Writes an initramfs: a cpio archive in the `newc` format.

Source: kernel, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_MAGIC: Final = b"070701"
_END: Final = "TRAILER!!!"


class Archive:
    """An archive in memory, built entry by entry. A directory comes before its entries."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def directory(self, name: str) -> None:
        """Add a directory with mode 0755."""
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, *, executable: bool = False) -> None:
        """Add a regular file."""
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), content)

    def symlink(self, name: str, to: str) -> None:
        """Add a symbolic link."""
        self._entry(name, stat.S_IFLNK | 0o777, to.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device. `/dev/console` must exist before init can mount devtmpfs."""
        self._entry(name, stat.S_IFCHR | 0o600, b"", major, minor)

    def tree(self, root: Path, under: str = "") -> None:
        """Add the directories, regular files and symbolic links below a directory.

        Args:
            root: The directory. Symbolic links are not followed.
            under: Directory of the archive that gets the entries; empty for the top.
        """
        for path, directories, files in os.walk(root):
            directories.sort()
            for name in sorted((*directories, *files)):
                source = Path(path, name)
                target = os.path.join(under, source.relative_to(root))
                if source.is_symlink():
                    self.symlink(target, str(source.readlink()))
                elif source.is_dir():
                    self.directory(target)
                elif source.is_file():
                    executable = bool(source.stat().st_mode & stat.S_IXUSR)
                    self.file(target, source.read_bytes(), executable=executable)

    def finish(self) -> bytes:
        """Add the trailer and return the archive. The kernel accepts several archives in a row."""
        self._entry(_END, 0, b"")
        return b"".join(self._parts)

    def _entry(self, name: str, mode: int, content: bytes, major: int = 0, minor: int = 0) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (
            self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(encoded), 0,
        )  # fmt: skip
        header = _MAGIC + b"".join(b"%08X" % field for field in fields)
        self._parts.append(_padded(header + encoded) + _padded(content))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
