"""noVNC: put, unmodified and with its licences, where the web server serves it from.

The package is fetched by name through the `npm` client, or taken from the file that the environment
variable `VRAMTAP_NOVNC_TARBALL` names, and is checked against the digest pinned here before a single
byte of it is unpacked. It is never in git; wheels and source archives carry it.

`python -m build_support.novnc` does it outside of a build.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from build_support.errors import BuildError

PACKAGE: Final = "@novnc/novnc"
VERSION: Final = "1.7.0"
SHA512: Final = "ucEJOx4T2avIRCleodk7YobZj5O2Ga2AeLfQ69A/yjG9HHba2+PDgwSkN3FttrmG+70ZGx21sElNFouK13RzyA=="
"""Digest of the package as published, in base64 as npm's `dist.integrity` has it."""
DESTINATION: Final = "src/vramtap/servers/web/static/novnc"
TARBALL_VARIABLE: Final = "VRAMTAP_NOVNC_TARBALL"

_STAMP: Final = ".unpacked"
_PREFIX: Final = "package"
_WANTED: Final = re.compile(r"core/.+|vendor/.+|docs/LICENSE[^/]*|LICENSE\.txt|AUTHORS")
_MAX_TARBALL_BYTES: Final = 4 << 20
"""26 times the published package."""
_MAX_UNPACKED_BYTES: Final = 16 << 20
"""20 times what the published package unpacks to."""
_MAX_MEMBERS: Final = 1000
_FETCH_TIMEOUT_S: Final = 300
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
"""zlib's code for "expect a gzip header" (zlib.h, inflateInit2)."""


class FetchError(BuildError):
    """noVNC could not be fetched, or is not what it should be; says what to do."""


def install(destination: Path, sha512: str = SHA512) -> bool:
    """Put noVNC into a directory, unless it is there.

    Args:
        destination: Created or replaced as a whole.
        sha512: What the package must hash to, in base64.

    Returns:
        Whether anything was done.

    Raises:
        FetchError: it cannot be fetched, is something else, or is built to do harm.
    """
    stamp = destination / _STAMP
    if stamp.is_file() and stamp.read_text().strip() == sha512:
        return False
    tarball = fetch()
    verify(tarball, sha512)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".novnc-") as scratch:
        unpacked = Path(scratch) / "novnc"
        unpack(tarball, unpacked)
        (unpacked / _STAMP).write_text(sha512 + "\n")
        if destination.exists():
            shutil.rmtree(destination)
        unpacked.rename(destination)
    return True


def fetch() -> bytes:
    """The package's bytes, unchecked.

    Raises:
        FetchError: there is no way to get it; says what to install.
    """
    named = os.environ.get(TARBALL_VARIABLE)
    if named:
        return _read(Path(named))
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            f"noVNC {VERSION} is needed for the browser page, and there is no npm to fetch it with: "
            f"install npm, or let {TARBALL_VARIABLE} name the file that `npm pack {PACKAGE}@{VERSION}` gives "
            "elsewhere"
        )
    with tempfile.TemporaryDirectory(prefix="vramtap-novnc-") as directory:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--ignore-scripts"]
        command += ["--pack-destination", directory]
        try:
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"{' '.join(command[:3])}: no answer in {_FETCH_TIMEOUT_S} s") from error
        packed = list(Path(directory).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            said = (done.stderr or done.stdout).strip()[-500:]
            raise FetchError(
                f"{' '.join(command[:3])}: exit status {done.returncode}, {len(packed)} files: {said} "
                f"(without a network, let {TARBALL_VARIABLE} name the package's file)"
            )
        return _read(packed[0])


def verify(tarball: bytes, sha512: str = SHA512) -> None:
    """Refuse anything but the package that was pinned.

    Raises:
        FetchError: the digest differs.
    """
    found = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if not hmac.compare_digest(found, sha512):
        raise FetchError(f"{PACKAGE} {VERSION}: sha512 is {found}, pinned is {sha512}; refused")


def unpack(tarball: bytes, destination: Path) -> None:
    """Unpack what is served, and the licences.

    Only regular files are written, by names that stay inside, within a bound of bytes and of members:
    links, devices and the archive's idea of modes and owners never reach the disk.

    Args:
        tarball: A gzipped tar whose members lie under `package/`.
        destination: Created.

    Raises:
        FetchError: it is damaged, or anything in it is not as it should be.
    """
    destination.mkdir(parents=True)
    written = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(_inflate(tarball)), mode="r:") as members:
            for count, member in enumerate(members):
                if count >= _MAX_MEMBERS:
                    raise FetchError(f"noVNC's archive has more than {_MAX_MEMBERS} members; refused")
                name = _safe_name(member)
                if name is None or not _WANTED.fullmatch(str(name)):
                    continue
                content = members.extractfile(member)
                if content is None:
                    raise FetchError(f"noVNC's archive: {member.name!r} has no content; refused")
                path = destination / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    file.write(content.read())
                written += 1
    except (tarfile.TarError, EOFError, OSError) as error:
        raise FetchError(f"noVNC's archive cannot be unpacked: {error}") from error
    if not (destination / "core" / "rfb.js").is_file():
        raise FetchError(f"noVNC's archive has no core/rfb.js among its {written} files")


def _safe_name(member: tarfile.TarInfo) -> PurePosixPath | None:
    """The member's path below `package/`; None for a directory, which is made when a file needs it."""
    name = PurePosixPath(member.name)
    inside = not name.is_absolute() and ".." not in name.parts and "\\" not in member.name
    if not inside or name.parts[:1] != (_PREFIX,) or not member.name.isprintable():
        raise FetchError(f"noVNC's archive: {member.name!r} lies outside of {_PREFIX}/; refused")
    if member.isdir():
        return None
    if not member.isreg():
        raise FetchError(f"noVNC's archive: {member.name!r} is no regular file; refused")
    return name.relative_to(_PREFIX)


def _inflate(tarball: bytes) -> bytes:
    """Undo gzip, but not beyond the bound: what lies past it is never made."""
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        data = inflater.decompress(tarball, _MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise FetchError(f"noVNC's archive is not gzip: {error}") from error
    if not inflater.eof:
        raise FetchError(f"noVNC's archive is cut short or unpacks to more than {_MAX_UNPACKED_BYTES} bytes")
    return data


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_TARBALL_BYTES + 1)
    except OSError as error:
        raise FetchError(f"read {path}: {error.strerror}") from error
    if len(data) > _MAX_TARBALL_BYTES:
        raise FetchError(f"{path} is longer than {_MAX_TARBALL_BYTES} bytes; that is not noVNC {VERSION}")
    return data


def main() -> None:
    """Have noVNC in place in this checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        done = install(root / DESTINATION)
    except BuildError as error:
        sys.exit(f"vramtap build: {error}")
    print(f"{DESTINATION}: {f'noVNC {VERSION} fetched' if done else 'up to date'}")


if __name__ == "__main__":
    main()
