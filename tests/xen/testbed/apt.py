"""Debian packages of the testbed: fetched by the machine's apt, unpacked, never installed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeVar

from support.testbed import cache
from support.testbed.errors import TestbedError

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Sequence
    from pathlib import Path

# apt's own user cannot write into our directory; apt would warn and do without it.
_AS_OURSELVES: Final = ("-o", "APT::Sandbox::User=root")

_Answer = TypeVar("_Answer")


def dependency(package: str, pattern: re.Pattern[str]) -> str:
    """What a metapackage depends on, by name: Debian's current kernel, Xen's current release.

    Args:
        package: The metapackage.
        pattern: Matches the whole name of the one that is meant.

    Raises:
        TestbedError: apt is missing, or knows no such package or dependency.
    """

    def ask() -> str:
        said = cache.run("apt-cache", "depends", "--important", package)
        found = [line.split()[-1] for line in said.splitlines() if "Depends:" in line]
        for name in found:
            if pattern.fullmatch(name):
                return name
        raise TestbedError(f"apt knows no dependency {pattern.pattern} of {package} (run apt-get update)")

    return _with_lists(ask)


def versions(package: str) -> list[str]:
    """All versions that apt can fetch of a package, the preferred one first; none: an empty list.

    Raises:
        TestbedError: apt is missing.
    """
    lines = cache.run("apt-cache", "madison", package).splitlines()
    fields = [line.split("|") for line in lines]
    return list(dict.fromkeys(field[1].strip() for field in fields if len(field) == 3))


def download(package: str, into: Path) -> Path:
    """Fetch one package.

    Args:
        package: Its name; `name=version` for one version.
        into: A directory.

    Returns:
        The package's file.

    Raises:
        TestbedError: apt is missing, does not know it, or cannot reach the mirror.
    """
    before = set(into.glob("*.deb"))
    _with_lists(lambda: cache.run("apt-get", "download", "-q", *_AS_OURSELVES, package, cwd=into))
    (archive,) = set(into.glob("*.deb")) - before
    return archive


def closure(packages: Sequence[str], into: Path) -> list[Path]:
    """Fetch packages with everything they depend on, as for a machine on which nothing is installed.

    Args:
        packages: Their names.
        into: A directory.

    Returns:
        The files of all packages.

    Raises:
        TestbedError: apt is missing, does not know one, or cannot reach the mirror.
    """
    (into / "partial").mkdir()
    nothing = into / "status"
    nothing.touch()
    options = {
        "Dir::State::status": str(nothing),
        "Dir::Cache::archives": str(into),
        # The machine's own index of packages would be written anew with our empty status.
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Install-Recommends": "false",
        "Debug::NoLocking": "true",
    }
    arguments = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    _with_lists(
        lambda: cache.run(
            "apt-get", "-y", "-q", *_AS_OURSELVES, *arguments, "--download-only", "install", *packages
        )
    )
    return sorted(into.glob("*.deb"))


def unpack(archive: Path, into: Path) -> None:
    """Unpack a package's files; its scripts are not run.

    Raises:
        TestbedError: dpkg-deb is missing, or it is no package.
    """
    cache.run("dpkg-deb", "-x", str(archive), str(into))


def _with_lists(ask: Callable[[], _Answer]) -> _Answer:
    """Ask apt; package lists that are missing or out of date are the common cause of a refusal."""
    try:
        return ask()
    except TestbedError:
        if os.geteuid() != 0:
            raise
        cache.run("apt-get", "update", "-q")
        return ask()
