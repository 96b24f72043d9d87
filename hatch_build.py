"""Build hook: has everything in place that the package carries and git does not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Hatchling loads this file alone, by its path; what lies beside it is not to be found without this.
ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from build_support import guest, novnc  # noqa: E402  # found by what the lines above add
from build_support.errors import BuildError  # noqa: E402  # the same


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling gives no useful argument
    """What hatchling calls before it collects files."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Have noVNC and the guest in place, for editable installs too."""
        try:
            novnc.install(Path(self.root) / novnc.DESTINATION)
            guest.build(Path(self.root) / guest.DIRECTORY)
        except BuildError as error:
            self.app.abort(f"vramtap build: {error}")
