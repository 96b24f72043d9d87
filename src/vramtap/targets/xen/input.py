"""Keyboard and pointer of a Xen domain, whose device model may change between two keys."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vramtap.errors import TargetGone

if TYPE_CHECKING:
    from vramtap.keyboard.events import Input, KeyEvent, PointerEvent

log: logging.Logger = logging.getLogger(__name__)


class XenInput:
    """Passes events on to the current device model, and drops them while there is none."""

    def __init__(self) -> None:
        self._model: Input | None = None

    def use(self, model: Input | None) -> None:
        """Pass events on to this input from now on; None drops them."""
        self._model = model

    async def key(self, event: KeyEvent) -> None:
        """Press or release a key; see `Input`."""
        if self._model is not None:
            try:
                await self._model.key(event)
            except TargetGone as error:
                log.debug("key dropped: %s", error)

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Move the pointer and set the buttons; see `Input`."""
        if self._model is not None:
            try:
                await self._model.pointer(event, width, height)
            except TargetGone as error:
                log.debug("pointer event dropped: %s", error)

    async def release_all(self) -> None:
        """Release every key and button that is held; see `Input`."""
        if self._model is not None:
            try:
                await self._model.release_all()
            except TargetGone as error:
                log.debug("no key is held any more: %s", error)
