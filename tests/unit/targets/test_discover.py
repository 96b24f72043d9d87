"""The list of all kinds of targets."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vramtap.targets import discover
from vramtap.targets.discovered import Discovered

if TYPE_CHECKING:
    import pytest


def test_guests_are_listed_without_libxcb(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = Discovered(url="xen:here", kind="xen", description="Xen domain here (id 1)", pid=5)
    monkeypatch.setattr(discover, "xen_targets", lambda: [domain])
    # This is what Python stores for a module whose import failed.
    monkeypatch.setitem(sys.modules, "vramtap.targets.x11.discover", None)
    assert domain in discover.discover()
