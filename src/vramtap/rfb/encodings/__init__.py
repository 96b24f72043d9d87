"""RFB encodings, a registry by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vramtap.rfb.encodings.base import Encoder
from vramtap.rfb.encodings.raw import RawEncoder
from vramtap.rfb.encodings.tight import TightEncoder
from vramtap.rfb.encodings.zrle import ZrleEncoder
from vramtap.rfb.wire import Encoding

ENCODERS: Final[dict[int, Callable[[], Encoder]]] = {
    Encoding.RAW: RawEncoder,
    Encoding.TIGHT: TightEncoder,
    Encoding.ZRLE: ZrleEncoder,
}
"""What can send pixels, by the number under which a client asks for it. CopyRect sends none and
is no alternative to these: see `copyrect`."""
