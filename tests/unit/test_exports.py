"""The public names of the package: all there, lazily imported, and no others."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import vramtap
from vramtap.errors import VramtapError

PUBLIC = {
    "AllDirty",
    "Damage",
    "Machine",
    "PageRuns",
    "Reason",
    "Rect",
    "Tap",
    "TrackerOptions",
    "__version__",
    "discover",
    "errors",
    "open",
    "screenshot",
    "serve",
    "track",
}


def test_public_names_are_exactly_these() -> None:
    assert set(vramtap.__all__) == PUBLIC
    assert list(vramtap.__all__) == sorted(vramtap.__all__)
    assert set(dir(vramtap)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_can_be_imported_and_is_documented(name: str) -> None:
    value = getattr(vramtap, name)
    if name != "__version__":
        assert value.__doc__


def test_version_is_that_of_the_distribution() -> None:
    assert vramtap.__version__ == version("vramtap")


def test_errors_are_public() -> None:
    assert issubclass(vramtap.errors.TargetGone, VramtapError)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Machines'"):
        vramtap.__getattr__("Machines")


def test_import_of_the_package_loads_nothing_heavy() -> None:
    code = "import sys, vramtap; print([name for name in ('numpy', 'asyncio') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
