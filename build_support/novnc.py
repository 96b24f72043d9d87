"""Installs noVNC, unmodified and with its licences, where the web server finds it.

The package comes from npm, or from the file that the environment variable `VRAMTAP_NOVNC_TARBALL` names. Its
digest is checked against the one pinned here before anything is unpacked. noVNC is not in git; wheels and
source archives contain it.

`python -m build_support.novnc` installs it outside of a build.
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
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from build_support import command
from build_support.errors import BuildError

PACKAGE: Final = "@novnc/novnc"
VERSION: Final = "1.7.0"
SHA512: Final = "ucEJOx4T2avIRCleodk7YobZj5O2Ga2AeLfQ69A/yjG9HHba2+PDgwSkN3FttrmG+70ZGx21sElNFouK13RzyA=="
"""Digest of the published package, in base64, as in npm's `dist.integrity`."""
DESTINATION: Final = "src/vramtap/servers/web/static/novnc"
TARBALL_VARIABLE: Final = "VRAMTAP_NOVNC_TARBALL"

_STAMP: Final = ".unpacked"
_PREFIX: Final = "package"
_WANTED: Final = re.compile(r"core/.+|vendor/.+|docs/LICENSE[^/]*|LICENSE\.txt|AUTHORS")
_MAX_TARBALL_BYTES: Final = 4 << 20
"""26 times the size of the published package."""
_MAX_UNPACKED_BYTES: Final = 16 << 20
"""20 times the unpacked size of the published package."""
_MAX_MEMBERS: Final = 1000
_FETCH_TIMEOUT_S: Final = 300
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
"""zlib's code for "expect a gzip header" (zlib.h, inflateInit2)."""


class FetchError(BuildError):
    """noVNC could not be fetched, or is not the pinned package. The message says what to do."""


def install(destination: Path, sha512: str = SHA512) -> bool:
    """Install noVNC into a directory, unless this version is there.

    Args:
        destination: Created, or replaced as a whole.
        sha512: Expected digest of the package, in base64.

    Returns:
        Whether noVNC was installed.

    Raises:
        FetchError: the package cannot be fetched, has another digest, or is damaged or hostile.
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
    """Return the content of the package, unchecked.

    Raises:
        FetchError: the package cannot be fetched.
    """
    named = os.environ.get(TARBALL_VARIABLE)
    if named:
        return _read(Path(named))
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            f"the browser page needs noVNC {VERSION}, and there is no npm to fetch it: install npm, or set "
            f"{TARBALL_VARIABLE} to the file that `npm pack {PACKAGE}@{VERSION}` creates elsewhere"
        )
    with tempfile.TemporaryDirectory(prefix="vramtap-novnc-") as directory:
        argv = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--ignore-scripts"]
        argv += ["--pack-destination", directory]
        try:
            done = subprocess.run(
                argv, cwd=directory, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"{' '.join(argv[:3])}: no answer in {_FETCH_TIMEOUT_S} s") from error
        packed = list(Path(directory).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            output = (done.stderr or done.stdout).strip()[-500:]
            raise FetchError(
                f"{' '.join(argv[:3])}: exit status {done.returncode}, {len(packed)} files: {output} "
                f"(without a network, set {TARBALL_VARIABLE} to the package's file)"
            )
        return _read(packed[0])


def verify(tarball: bytes, sha512: str = SHA512) -> None:
    """Check that this is the pinned package.

    Raises:
        FetchError: it has another digest.
    """
    found = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if not hmac.compare_digest(found, sha512):
        raise FetchError(f"{PACKAGE} {VERSION}: sha512 is {found}, pinned is {sha512}; refused")


def unpack(tarball: bytes, destination: Path) -> None:
    """Unpack the files that the web server serves, and the licences.

    Writes regular files only, with names inside `destination`, and limits bytes and members. Links, devices,
    modes and owners from the archive never reach the disk.

    Args:
        tarball: A gzipped tar archive whose members lie under `package/`.
        destination: Created by this function.

    Raises:
        FetchError: the archive is damaged, or a member is not as expected.
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
    """Return the member's path below `package/`; None for a directory, which is created with its files."""
    name = PurePosixPath(member.name)
    inside = not name.is_absolute() and ".." not in name.parts and "\\" not in member.name
    if not inside or name.parts[:1] != (_PREFIX,) or not member.name.isprintable():
        raise FetchError(f"noVNC's archive: {member.name!r} lies outside {_PREFIX}/; refused")
    if member.isdir():
        return None
    if not member.isreg():
        raise FetchError(f"noVNC's archive: {member.name!r} is not a regular file; refused")
    return name.relative_to(_PREFIX)


def _inflate(tarball: bytes) -> bytes:
    """Undo gzip, and stop at the limit."""
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        data = inflater.decompress(tarball, _MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise FetchError(f"noVNC's archive is not gzip: {error}") from error
    if not inflater.eof:
        raise FetchError(f"noVNC's archive is cut off or unpacks to more than {_MAX_UNPACKED_BYTES} bytes")
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


def _step(root: Path) -> str:
    installed = install(root / DESTINATION)
    return f"{DESTINATION}: {f'noVNC {VERSION} installed' if installed else 'up to date'}"


if __name__ == "__main__":
    command.run(_step)
