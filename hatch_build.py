"""Build hook: provides the files that the package contains and git does not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Hatchling loads this file by its path, so Python does not search its directory for modules.
ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from build_support import guest, novnc  # noqa: E402  # needs the path set above
from build_support.errors import BuildError  # noqa: E402  # the same


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling gives no useful argument
    """Hook that hatchling calls before it collects files."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Install noVNC and compile the guest, for editable installs too."""
        try:
            novnc.install(Path(self.root) / novnc.DESTINATION)
            guest.build(Path(self.root) / guest.DIRECTORY)
        except BuildError as error:
            self.app.abort(f"vramtap build: {error}")
