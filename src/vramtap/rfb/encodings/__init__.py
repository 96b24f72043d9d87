"""Encodings for pixels, and a registry of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vramtap.rfb.encodings.raw import RawEncoder
from vramtap.rfb.encodings.tight import TightEncoder
from vramtap.rfb.encodings.zrle import ZrleEncoder
from vramtap.rfb.wire import Encoding

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.rfb.encodings.base import Encoder

ENCODERS: Final[dict[int, Callable[[], Encoder]]] = {
    Encoding.RAW: RawEncoder,
    Encoding.TIGHT: TightEncoder,
    Encoding.ZRLE: ZrleEncoder,
}
"""Encoders by encoding number. CopyRect is not among them, because it sends no pixels: see `copyrect`."""
